"""One video: frame in, result out."""

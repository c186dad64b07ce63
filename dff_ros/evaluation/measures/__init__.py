"""The scores, each with one meaning."""

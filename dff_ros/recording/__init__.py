"""Videos, image folders, bags and generated drives as one kind of stream of stamped frames."""

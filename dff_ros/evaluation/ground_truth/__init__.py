"""What is true of a frame: from files, from topics of a bag, from a generated drive."""

"""One HTML file about a replay: figures, words and pictures in, a page out that needs no network. No ROS, no networks."""

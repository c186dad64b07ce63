"""What to run on a recording: candidates measured, simulated and compared, and one recommended. Without ROS."""

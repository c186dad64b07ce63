"""Replays of recordings without ROS, scored against truth and against per-frame."""

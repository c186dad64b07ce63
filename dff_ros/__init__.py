"""Deep Feature Flow for ROS 2: the slow network on key frames, a fast flow on every other frame."""

__version__ = "0.1.0"

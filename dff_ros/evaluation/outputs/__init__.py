"""What a replay writes while it runs: trace, video, bag, pictures and page."""

"""People and hands in frames: boxes, 2D keypoints, tracks. No torch here."""

"""A synthetic world: the free body, moved by motion capture, dressed, lit and filmed."""

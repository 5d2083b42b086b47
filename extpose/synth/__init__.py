"""A synthetic world: the free body or hand, moved, dressed, lit and filmed."""

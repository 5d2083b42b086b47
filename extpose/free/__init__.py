"""The free body and hand: their files, and how they are made."""

"""Losses, engine, checkpoints and the loop."""

"""Shards, crops, skeletons, augmentation and the loader."""

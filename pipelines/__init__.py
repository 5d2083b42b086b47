"""Ray graphs, one file a verb."""

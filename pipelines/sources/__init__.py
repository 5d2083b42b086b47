"""One file per data set: it knows its files and yields rows, nothing else."""

"""The labelled data sets that `extpose ingest` knows, by name."""

from pipelines.records import Source

SOURCES: dict[str, Source] = {}

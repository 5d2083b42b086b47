"""The labelled data sets that `extpose ingest` knows, by name."""

from pipelines.records import Source
from pipelines.sources import pose2sim

SOURCES: dict[str, Source] = {source.name: source for source in (pose2sim.SOURCE,)}

"""Records of a miniature as `ingest` would write them, before the eyes of `extpose validate`."""

from pathlib import Path

from extpose.config import CropConfig, IngestConfig
from extpose.data.checks import find_clip_faults
from pipelines.cutting import ClipCutter
from pipelines.records import Record, check_record

CONFIG = IngestConfig(out=Path("nothing-is-written"), crop=CropConfig(size=64))


def check_cut(record: Record) -> None:
    """A good record, of whose clips the validator is not certain of any fault.

    Raises SourceError for a record that breaks the contract of sources.
    """
    check_record(record)
    for clip in ClipCutter(CONFIG, "miniature").cut(record):
        faults = find_clip_faults(clip, skeleton=CONFIG.skeleton, crop=CONFIG.crop)
        assert [str(fault) for fault in faults if fault.is_certain] == [], record.name

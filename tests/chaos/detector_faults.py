"""Detectors that misbehave on one frame: its unit is quarantined, the others are written."""

import json

from pipelines.preprocess import preprocess
from tests.chaos.lab import Lab, Row
from tests.chaos.preprocess_run import fake_config
from tests.pipelines.fakes import box_detector

DETECTOR_FAULTS = {
    "raises": "ArithmeticError",
    "hangs": "detector_hung",
    "crashes": "detector_crashed",
    "says NaN": "DetectorError",
    "forgets a score": "DetectorError",
    "kills its actor": "workers_died",
}


def break_detector(lab: Lab, fault: str, reason: str) -> Row:
    """A detector that misbehaves on one frame: its unit is quarantined, the others are written."""
    out = lab.new_out()
    config = fake_config(lab.videos, out, frame_seconds=2.0, tries=2)
    code = preprocess(config, detector=box_detector(fault))
    rows = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    found = [(r["reason"], r["start"], r["message"]) for r in rows if "odd frame" in r["path"]]
    manifest = json.loads((out / "manifest.json").read_text())
    counts = manifest["frame_counts"]
    is_ok = (
        code == lab.code
        and [f[:2] for f in found] == [(reason, 20)]
        and ("frame 25" in found[0][2] or reason == "workers_died")
        and counts["quarantined"] == 20
        and counts["frames"] == counts["written"] + sum(counts["filtered"].values()) + 20
    )
    after, is_equal = lab.run_again(out)
    return Row(
        fault=f"detector {fault}", moment="frame 25 of a video",
        outcome=f"{reason}: one unit quarantined, {len(manifest['shards'])} shards"
        if is_ok else f"exit {code}, {found}, {counts}",
        after=after, is_ok=is_ok and is_equal,
    )  # fmt: skip

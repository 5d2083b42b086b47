"""The line of preprocessing without Ray."""

from collections.abc import Callable
from typing import Any

from extpose.detect.plugs import VideoDetector
from pipelines.ledger import open_output
from pipelines.plan import plan_videos, settings_of
from pipelines.sources.folder import find_sources
from pipelines.stages.detect import Detector, add_detections, detect_unit
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from tests.pipelines.fakes import box_detector


def detect_alone(
    detector: Detector | VideoDetector,
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The detection stage, without a process of the detector's own, which is slow to start."""

    def detect(row: dict[str, Any]) -> dict[str, Any]:
        return add_detections(row, detect_unit(detector, row, lambda _: None))

    return detect


def run_stages(config) -> list[dict]:
    """The line without Ray: plan, then each stage in turn, in this process."""
    spec = box_detector()
    settings = settings_of(config, f"{spec.name} {spec.identity}")
    with open_output(config.out):
        planned = plan_videos(find_sources(config.source.path).videos, config, settings)
    detect = detect_alone(spec.build(config.detect))
    rows = [vars(unit) for video in planned for unit in video.units]
    return [
        pack(track(detect(row), config=config.detect), config=config, detector="boxes")
        for row in rows
    ]

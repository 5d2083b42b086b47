"""The line of preprocessing without Ray."""

from pipelines.ledger import open_output
from pipelines.plan import plan_videos, settings_of
from pipelines.sources.folder import find_videos
from pipelines.stages.detect import Detect
from pipelines.stages.pack import pack
from pipelines.stages.track import track
from tests.pipelines.fakes import box_detector


def run_stages(config) -> list[dict]:
    """The line without Ray: plan, then each stage in turn, in this process."""
    spec = box_detector()
    settings = settings_of(config, f"{spec.name} {spec.identity}")
    with open_output(config.out):
        planned = plan_videos(find_videos(config.source.path), config, settings)
    detect = Detect(config.detect, spec)
    rows = [vars(unit) for video in planned for unit in video.units]
    results = [
        pack(track(detect(row), config=config.detect), config=config, detector="boxes")
        for row in rows
    ]
    detect.close()
    return results

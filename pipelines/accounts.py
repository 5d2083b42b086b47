"""Whether a folder's accounts are balanced: what went in is written, filtered or quarantined.

frames = written + filtered + quarantined        of every marker, and in the manifest
tracks = written + filtered                      the same
the manifest's sums = the sums over the markers; its shards = those of the markers
videos = written + filtered + quarantined
"""

from collections.abc import Iterator
from typing import Any

from extpose.errors import ExtPoseError
from extpose.storage import Location, list_files
from pipelines.committed import MANIFEST, MARKERS, read_json, read_marker
from pipelines.ledger import Outcome, add_counts, imbalance
from pipelines.track_report import COUNTS

SUMMED = (
    "frames",
    "written",
    "quarantined",
    "clips",
    "clip_frames",
    "num_tracks",
    "written_tracks",
)
"""Numbers of the manifest's `frame_counts` that are sums over markers."""
SHARD_FIELDS = {"name": str, "clips": int, "frames": int, "sha256": str}
FIELDS: dict[str, dict[str, type]] = {
    "": {"schema_version": int, "source": str, "settings": dict, "clips": int, "frames": int},
    "frame_counts": {"frames": int, "written": int, "filtered": dict, "quarantined": int},
}
"""What every manifest has, and what those have that count frames."""
VIDEO_FIELDS: dict[str, dict[str, type]] = {
    "": {"split": str, "videos": list},
    "track_counts": dict.fromkeys(("tracks", "longest_gap", *COUNTS), int),
    "video_counts": dict.fromkeys(("videos", "written", "filtered", "quarantined"), int),
    "frame_counts": {
        **FIELDS["frame_counts"],
        **dict.fromkeys(SUMMED, int),
        "filtered_tracks": dict,
    },
}
"""What those have besides that were made of videos."""


def shape_faults(manifest: dict[str, Any]) -> Iterator[str]:
    """Every field that is missing or of another type, as `field: what is wrong`."""
    fields = {place: dict(kinds) for place, kinds in FIELDS.items()}
    if manifest.get("source") == "video" or "video_counts" in manifest or "videos" in manifest:
        for place, kinds in VIDEO_FIELDS.items():
            fields.setdefault(place, {}).update(kinds)
    elif "frame_counts" not in manifest and "label_counts" not in manifest:
        del fields["frame_counts"]
    for place, kinds in fields.items():
        yield from _field_faults(place, manifest.get(place) if place else manifest, kinds)
    for i, shard in enumerate(manifest["shards"]):
        yield from _field_faults(f"shards: {i}", shard, SHARD_FIELDS)
    videos = manifest.get("videos")
    for i, video in enumerate(videos if isinstance(videos, list) else []):
        yield from _field_faults(f"videos: {i}", video, {"video_id": str, "status": str})


def _field_faults(place: str, values: Any, kinds: dict[str, type]) -> Iterator[str]:
    if not isinstance(values, dict):
        yield f"{place}: is {values!r}, expected an object"
        return
    for name, kind in kinds.items():
        where = f"{place}: {name}" if place else name
        value = values.get(name)
        if name not in values:
            yield f"{where}: is missing"
        elif not isinstance(value, kind) or isinstance(value, bool):
            yield f"{where}: is {value!r}, expected {kind.__name__}"
        elif isinstance(value, dict) and name.startswith("filtered"):
            yield from _field_faults(where, value, dict.fromkeys(value, int))


def account_faults(folder: Location) -> Iterator[str]:
    """Every sum that is not right, as `file: field: what is wrong`.

    Nothing without a manifest, or of one that is not even of the right shape (`shape_faults`).
    """
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
    except ExtPoseError:
        return  # told by whoever reads the manifest first
    if not isinstance(manifest, dict) or not isinstance(manifest.get("shards"), list):
        return
    if any(shape_faults(manifest)):
        return
    counts = manifest.get("frame_counts")
    if isinstance(counts, dict):
        yield from (f"{path}: frame_counts: {fault}" for fault in _sum_faults(counts))
    if "video_counts" in manifest:
        yield from _video_faults(path, manifest)
        yield from _marker_faults(folder, path, manifest)


def _sum_faults(counts: dict[str, Any]) -> Iterator[str]:
    found = counts["written"] + sum(counts["filtered"].values()) + counts["quarantined"]
    if found != counts["frames"]:
        yield f"frames is {counts['frames']}, written, filtered and quarantined are {found}"
    if "num_tracks" in counts:
        found = counts["written_tracks"] + sum(counts["filtered_tracks"].values())
        if found != counts["num_tracks"]:
            yield f"num_tracks is {counts['num_tracks']}, written and filtered are {found}"


def _video_faults(path: Location, manifest: dict[str, Any]) -> Iterator[str]:
    counts = manifest["video_counts"]
    found = sum(counts[name] for name in ("written", "filtered", "quarantined"))
    if not found == counts["videos"] == len(manifest["videos"]):
        yield (
            f"{path}: video_counts: videos is {counts['videos']}, written, filtered and "
            f"quarantined are {found}, {len(manifest['videos'])} are listed"
        )


def _marker_faults(folder: Location, path: Location, manifest: dict[str, Any]) -> Iterator[str]:
    """Markers of the manifest's videos, one by one and together."""
    known = {video["video_id"] for video in manifest["videos"] if "reason" not in video}
    outcomes: list[Outcome] = []
    for entry in list_files(folder / MARKERS, ".json"):
        if entry.location.stem.rpartition("-")[0] not in known:
            continue  # of a video that is not given any more: without a shard, or it is told
        try:
            outcome = read_marker(folder, entry.location.stem, Outcome)
        except ExtPoseError as error:
            yield str(error)
            continue
        if outcome is not None:
            try:
                fault = imbalance(outcome)
                add_counts([outcome])
            except (TypeError, ValueError, AttributeError) as error:
                yield f"{entry.location}: not a marker ({error})"
                continue
            outcomes.append(outcome)
            if fault:
                yield f"{entry.location}: {fault}"
    if not outcomes:
        return  # the shards went on a journey without their markers
    sums, counts = add_counts(outcomes), manifest["frame_counts"]
    sums["frames"] += counts["filtered"].get("duplicate", 0)
    counts = {"empty_detections": 0} | counts  # older folders do not say
    for name in (*SUMMED, "empty_detections"):
        if sums[name] != counts[name]:
            yield f"{path}: frame_counts: {name} is {counts[name]}, the markers' {sums[name]}"
    shards = {f"{o.name}.tar": o.sha256 for o in outcomes if o.sha256}
    listed = {shard["name"]: shard["sha256"] for shard in manifest["shards"]}
    for name in sorted({*shards, *listed}):
        if shards.get(name) != listed.get(name):
            yield (
                f"{path}: shards: {name} has sha256 {listed.get(name)}, its marker says "
                f"{shards.get(name)}"
            )

"""`extpose explain`: where a sample comes from, or why there is none.

    extpose explain walk-1f0c5a3e9b_0_000000 --data data/walk     # a clip
    extpose explain walk.mp4:120 --data data/walk                 # a frame, also one in no clip

All that is said is read from the folder: shard, manifest, and the markers of its units.
"""

from pathlib import Path, PurePath
from typing import Any

import numpy as np

from extpose.data.shards import ShardIndex
from extpose.detect.hand_tracks import MAX_DISPUTED
from extpose.errors import ExtPoseError
from extpose.schema import Clip
from extpose.storage import Location, find_file, hash_file, list_files, make_location
from pipelines.committed import MANIFEST, flat_settings, read_json, read_marker
from pipelines.environment import VERSIONS, differences_here, read_environments, say_differences
from pipelines.ledger import Outcome
from pipelines.source_files import read_files, shorten


def explain(target: str, data: Location) -> str:
    """What is known of a clip's key, a video (path, name or id) or its frame (`video:frame`).

    Raises ExtPoseError for what the folder has never seen, or when it has no manifest.
    """
    manifest = read_manifest(data)
    video, frame = _find_video(target, manifest)
    if video is not None:
        return _lines(_video_facts(video, frame, data))
    shard, clip = find_clip(target, data, manifest)
    return _lines(_clip_facts(shard, clip, data, manifest))


def read_manifest(data: Location) -> dict[str, Any]:
    """What the folder holds. Raises ExtPoseError without it: the run is not finished."""
    manifest = read_json(data / MANIFEST)
    if not isinstance(manifest, dict):
        raise ExtPoseError(f"{data / MANIFEST}: not there; the folder is not finished")
    return manifest


def find_clip(key: str, data: Location, manifest: dict[str, Any]) -> tuple[Location, Clip]:
    """The shard of a key, and its clip. Raises ExtPoseError."""
    names = [shard["name"] for shard in manifest["shards"]]
    video_id = key.rsplit("_", 2)[0]
    # Shards of videos carry the video's name; those of other data sets are searched.
    likely = [name for name in names if name.startswith(f"{video_id}-")]
    for name in likely or names:
        index = ShardIndex([data / name])
        if key in index.keys:
            return data / name, index.read_clip(index.keys.index(key))
    raise ExtPoseError(f"{data}: no clip, video or frame {key!r} among {len(names)} shards")


def video_of(clip: Clip, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest's entry of a clip's video; empty for data sets without videos."""
    videos = manifest.get("videos", ())
    return next((v for v in videos if v["video_id"] == clip.meta.video_id), {})


def _find_video(target: str, manifest: dict[str, Any]) -> tuple[dict[str, Any] | None, int | None]:
    name, colon, number = target.rpartition(":")
    tries: list[tuple[str, int | None]] = [(target, None)]
    if colon and number.isdigit():
        tries.append((name, int(number)))
    for wanted, frame in tries:
        for video in manifest.get("videos", ()):
            names = (video["path"], PurePath(video["path"]).name, video["video_id"])
            if wanted and wanted in names:
                return video, frame
    return None, None


def _video_facts(video: dict[str, Any], frame: int | None, data: Location) -> dict[str, str]:
    facts = {"video": video["path"], "id": video["video_id"] or "none", "sha256": video["sha256"]}
    facts["status"] = video["status"] + (f": {video['reason']}" if "reason" in video else "")
    outcomes = _outcomes(video["video_id"], data)
    if not outcomes or "reason" in video:
        return facts
    spans = [(*span, o) for o in outcomes for span in _spans(o)]
    if frame is not None:
        found = [s for s in spans if s[0] <= frame < s[1]]
        facts["frame"] = str(frame)
        facts["fate"] = "not in the video as it was decoded"
        if found:
            start, stop, fate, outcome = found[0]
            facts["fate"] = f"{_fate(fate)} (frames {start} to {stop - 1})"
            facts["unit"] = outcome.name
            facts |= _failure(outcome)
            facts |= _dropped(outcome, frame)
        return facts
    for start, stop, fate, outcome in spans:
        facts[f"frames {start} to {stop - 1}"] = _fate(fate)
        facts |= _failure(outcome)
    return facts


def _dropped(outcome: Outcome, frame: int) -> dict[str, str]:
    """People and hands that were there in the frame and are in no clip."""
    facts = {}
    num_people = sum(outcome.filtered_tracks.values())  # they come first
    for index, (first, end, why) in enumerate(outcome.track_spans):
        if first <= frame < end:
            who = "person" if index < num_people else f"hand {index - num_people}"
            facts[f"{who} in frames {first} to {end - 1}"] = f"filtered: {why}"
    return facts


def _outcomes(video_id: str, data: Location) -> list[Outcome]:
    """Markers of a video's units, in order."""
    entries = list_files(data / "done", ".json") if video_id else []
    names = [e.location.stem for e in entries if e.location.stem.rpartition("-")[0] == video_id]
    found = (read_marker(data, name, Outcome) for name in names)
    return [outcome for outcome in found if outcome is not None]


def _spans(outcome: Outcome) -> list[tuple[int, int, str]]:
    if outcome.frame_spans:
        return outcome.frame_spans
    start = int(outcome.name.rpartition("-")[2])
    return [(start, start + outcome.frames, outcome.status)]


def _fate(fate: str) -> str:
    return fate if fate in ("written", "quarantined") else f"filtered: {fate}"


def _failure(outcome: Outcome) -> dict[str, str]:
    if outcome.status != "quarantined":
        return {}
    return {f"error of {outcome.name}": f"{outcome.reason}: {outcome.message}"}


def _clip_facts(
    shard: Location, clip: Clip, data: Location, manifest: dict[str, Any]
) -> dict[str, str]:
    meta, settings, video = clip.meta, manifest["settings"], video_of(clip, manifest)
    last = meta.first_frame + clip.num_frames - 1
    listed = next(s["sha256"] for s in manifest["shards"] if data / s["name"] == shard)
    found = hash_file(shard)
    is_same = "as in the manifest" if found == listed else f"the manifest says {listed}"
    facts = {
        "key": clip.key,
        "shard": str(shard),
        "shard sha256": f"{found} ({is_same})",
        "source": f"{meta.source} {video.get('path', meta.video_id)}",
        "source sha256": video.get("sha256", "not hashed"),
        "source there": "yes" if video and _is_there(video["path"]) else "no",
        "frames": f"{meta.first_frame} to {last} ({clip.num_frames})",
        "time stamps": f"{clip.timestamps[0]:.4f} to {clip.timestamps[-1]:.4f} s, {meta.fps:g} fps",
        "person": f"track {meta.track_id}, {meta.body}"
        + ("" if meta.is_right is None else f", {'right' if meta.is_right else 'left'} hand"),
    }
    if (made_of := read_files(data, shard.stem)) is not None:
        changed = made_of.changed(Path(made_of.root))
        facts["source files"] = f"{len(made_of.files)} below {made_of.root}, " + (
            f"now others: {shorten(changed)}" if changed else "still the same"
        )
    facts |= _box_facts(clip)
    facts["detector"] = (
        f"{meta.detector}; {settings.get('detector_identity', settings.get('source', ''))}"
    )
    if video:  # labelled data sets go through no such filters
        facts |= _filters(shard, clip, settings.get("detect", {}))
        facts |= _other_side(clip, read_marker(data, shard.stem, Outcome))
    facts |= _made_with(data, shard.stem)
    facts |= {f"setting {n}": str(v) for n, v in sorted(flat_settings(settings).items())}
    return facts


def _made_with(data: Location, unit: str) -> dict[str, str]:
    outcome = read_marker(data, unit, Outcome) if read_environments(data) else None
    if outcome is None or not outcome.environment:
        return {}
    other = differences_here(data, outcome.environment)
    return {"made with": f"{outcome.environment} of {VERSIONS}; {say_differences(other)}"}


def _is_there(path: str) -> bool:
    return find_file(make_location(path)) is not None


def _box_facts(clip: Clip) -> dict[str, str]:
    def text(box: np.ndarray) -> str:
        return "x {:.1f} to {:.1f}, y {:.1f} to {:.1f}".format(*box[[0, 2, 1, 3]].tolist())

    missing = np.flatnonzero(~clip.is_detected) + clip.meta.first_frame
    bridged = ", ".join(map(str, missing.tolist())) or "none"
    detected = f"{int(clip.is_detected.sum())} of {clip.num_frames} frames"
    return {
        "box": f"{text(clip.bbox_xyxy[0])} at first, {text(clip.bbox_xyxy[-1])} at last (pixels)",
        "detected": f"{detected}; bridged: {bridged}",
    }


def _filters(shard: Location, clip: Clip, detect: dict[str, Any]) -> dict[str, str]:
    """The filters that the track passed, with its values: those of the stretch with this clip."""
    stretch = _stretch(ShardIndex([shard]), clip)
    boxes = np.concatenate([c.bbox_xyxy for c in stretch])
    sure = np.concatenate([c.keypoints_2d[c.is_detected, :, 2] for c in stretch])
    sides = boxes[:, 2:] - boxes[:, :2]
    values = {"min_track_frames": float(len(boxes))}
    if clip.meta.body == "mano":
        values["min_hand_pixels"] = float(np.median(sides.max(-1)))
    else:
        values["min_box_height"] = float(np.median(sides[:, 1])) / clip.meta.image_size[0]
    values["min_mean_confidence"] = float(sure.mean()) if sure.size else 0.0
    return {
        f"passed {name}": f"{value:.4g} of at least {detect[name]}"
        for name, value in values.items()
        if name in detect
    }


def _stretch(index: ShardIndex, clip: Clip) -> list[Clip]:
    """The clips of the track before and after this one without a gap: a track may come back."""
    clips = [index.read_clip(i) for i in range(len(index))]
    mine = [c for c in clips if c.meta.track_id == clip.meta.track_id]
    mine.sort(key=lambda c: c.meta.first_frame)
    stretches: list[list[Clip]] = []
    end = -1
    for one in mine:
        if one.meta.first_frame != end:
            stretches.append([])
        stretches[-1].append(one)
        end = one.meta.first_frame + one.num_frames
    return next(stretch for stretch in stretches if clip.key in [c.key for c in stretch])


def _other_side(clip: Clip, outcome: Outcome | None) -> dict[str, str]:
    """How often the hand network took the hand for one of the other side."""
    whose = (clip.meta.track_id, clip.meta.is_right)
    hands = [
        hand
        for hand in (outcome.hands if outcome else ())
        if whose == (2 * hand["track_id"] + hand["is_right"], hand["is_right"])
    ]
    if not hands:
        return {}
    disputed, found = (sum(hand[name] for hand in hands) for name in ("disputed", "found"))
    frames = f"{disputed} of {found} frames of this hand in the unit"
    return {"passed other_side": f"{frames}, at most {MAX_DISPUTED:.0%} of a stretch"}


def _lines(facts: dict[str, str]) -> str:
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())

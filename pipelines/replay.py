"""`extpose replay`: one stage of preprocessing, alone, without Ray, against what it gave before.

    extpose replay golden --save-from data/walk     # a unit's stages and what goes between them
    extpose replay golden --stage track --repeat 5  # runs the stage, times it, compares

The golden folder: `golden.json` (unit, settings), `detections.npz`, `tracks.npz` and, with hands,
`hands.npz` (what `detect`, `track` and `hands` gave), `shard.tar` and `outcome.json` (of `pack`).
The video stays where it is.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from extpose.config import PreprocessConfig
from extpose.data.shards import ShardIndex
from extpose.errors import ExtPoseError
from pipelines.arguments import DetectorFiles
from pipelines.committed import settings_differences
from pipelines.detectors import evidence_name
from pipelines.differences import compare
from pipelines.ledger import MANIFEST, Outcome, Unit, open_output, read_outcome
from pipelines.preprocess import decide
from pipelines.rebuild import find_unit, refuse_others, restore_config, with_files
from pipelines.rows import Failure, unpack_arrays
from pipelines.stages.detect import DetectorSpec, detect_unit
from pipelines.stages.hands import FindHands
from pipelines.stages.pack import pack
from pipelines.stages.track import track

GOLDEN, SHARD, OUTCOME = "golden.json", "shard.tar", "outcome.json"
Stage = Literal["detect", "track", "hands", "pack"]
STAGES: tuple[Stage, ...] = ("detect", "track", "hands", "pack")
GIVES: dict[Stage, str] = {"detect": "detections", "track": "tracks", "hands": "hands"}
IDENTITIES = ("detector_identity", "hands_identity")
"""Settings that say which networks are used."""
Values = dict[str, Any]
"""What a stage gives, by name: arrays, bytes and plain values."""


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A saved unit."""

    folder: Path
    unit: Unit
    config: PreprocessConfig
    detector: str
    """Name and identity."""


def save_golden(
    folder: Path,
    data: Path,
    name: str,
    spec: DetectorSpec | None = None,
    *,
    files: DetectorFiles | None = None,
) -> list[str]:
    """Run the stages on a unit of a finished data set, and keep what goes between them.

    `name` is the unit's, '' for the first with a shard; `spec` the folder's own, if none is given;
    `files` the detector's, where it has some that the user brings. Returns lines to print. Raises
    ExtPoseError where that shard does not come out again.
    """
    unit, config, detector, spec = _find_unit(data, name, spec, files)
    if folder.exists() and any(folder.iterdir()):
        raise ExtPoseError(f"{folder}: not empty; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    golden = Golden(folder=folder, unit=unit, config=config, detector=detector)
    lines = []
    for stage in stages_of(config):
        seconds, values = run_stage(golden, stage, spec, keep=True)
        lines.append(f"{stage:<8}{seconds:>8.2f} s   {len(values)} values kept")
    was, now = read_outcome(data, unit), json.loads((folder / OUTCOME).read_text())
    if was is None or was.sha256 != now["sha256"]:
        raise ExtPoseError(
            f"{data}: {unit.name}.tar has hash {was.sha256[:12] if was else 'none'}, the stages "
            f"now give {now['sha256'][:12]}"
        )
    text = {"unit": asdict(unit), "detector": detector, "config": asdict(config)}
    (folder / GOLDEN).write_text(json.dumps(text, indent=1, default=str) + "\n")
    return [f"{unit.name} of {data}", *lines]


def replay(
    folder: Path,
    stages: tuple[Stage, ...],
    spec: DetectorSpec | None = None,
    *,
    repeat: int = 1,
    tolerance: float = 0.0,
    files: DetectorFiles | None = None,
) -> tuple[list[str], bool]:
    """Lines to print, and whether all is as it was. Raises ExtPoseError for a folder of no use.

    `tolerance`: largest difference of a float that is no difference. `files`: the detector's, where
    they are not where they were when the folder was saved.
    """
    golden, lines, is_equal = read_golden(folder), [], True
    golden = replace(golden, config=with_files(golden.config, files))
    _, spec, settings = decide(golden.config, spec)
    now = _identities(settings)
    if now != golden.detector and {"detect", "hands"} & set(stages):
        raise ExtPoseError(f"{folder}: made by {golden.detector}, this is {now}")
    known = stages_of(golden.config)
    if not set(stages) & set(known):
        raise ExtPoseError(f"{folder}: has stages {known}, not {stages}")
    for stage in (stage for stage in stages if stage in known):
        runs = [run_stage(golden, stage, spec) for _ in range(repeat)]
        expected = read_values(golden, stage)
        differences = compare(expected, runs[-1][1], tolerance=tolerance)
        best = min(seconds for seconds, _ in runs)
        each = 1e3 * best / golden.unit.num_frames
        verdict = "differs" if differences else "equal"
        lines.append(f"{stage:<8}{best:>8.2f} s{each:>9.2f} ms/frame   {verdict}")
        lines += [f"        {difference}" for difference in differences]
        is_equal &= not differences
    return lines, is_equal


def run_stage(
    golden: Golden, stage: Stage, spec: DetectorSpec, *, keep: bool = False
) -> tuple[float, Values]:
    """Seconds and values of one stage on its saved input; `keep` saves them as golden."""
    row, folder = asdict(golden.unit), golden.folder
    detector = spec.build(golden.config.detect) if stage == "detect" else None
    if stage != "detect":
        known = stages_of(golden.config)
        kept = GIVES[known[known.index(stage) - 1]]
        row["detections" if stage == "track" else "tracks"] = _read(folder / f"{kept}.npz")
    hands = FindHands(golden.config.detect, golden.config.detector) if stage == "hands" else None
    start = time.monotonic()
    if detector is not None:
        result: Any = detect_unit(detector, row, lambda _: None)
        result = result if isinstance(result, Failure) else result.bundle
    elif stage == "pack":
        return _run_pack(golden, row, spec, keep=keep)
    else:
        result = hands(row) if hands else track(row, config=golden.config.detect)
        result = Failure(**json.loads(result["error"])) if "error" in result else result["tracks"]
    seconds = time.monotonic() - start
    if isinstance(result, Failure):
        raise ExtPoseError(f"{golden.unit.name}: {stage}: {result.reason}: {result.message}")
    if keep:
        (folder / f"{GIVES[stage]}.npz").write_bytes(result)
    return seconds, dict(unpack_arrays(result))


def stages_of(config: PreprocessConfig) -> tuple[Stage, ...]:
    """Those that a unit goes through."""
    return tuple(stage for stage in STAGES if stage != "hands" or config.body == "mano")


def _run_pack(
    golden: Golden, row: dict[str, Any], spec: DetectorSpec, *, keep: bool
) -> tuple[float, Values]:
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        config = replace(golden.config, out=out)
        with open_output(out):
            start = time.monotonic()
            written = pack(row, config=config, detector=evidence_name(config, spec))
            seconds = time.monotonic() - start
        outcome = read_outcome(out, golden.unit)
        if outcome is None or written["write_error"]:
            raise ExtPoseError(f"{golden.unit.name}: pack: {written['write_error']}")
        shard = out / f"{golden.unit.name}.tar"
        values = _pack_values(outcome, shard)
        if keep:
            (golden.folder / OUTCOME).write_text(json.dumps(_timeless(outcome), indent=1) + "\n")
            if shard.exists():
                shutil.copy(shard, golden.folder / SHARD)
    return seconds, values


def read_values(golden: Golden, stage: Stage) -> Values:
    """What the stage gave when it was saved."""
    if stage == "pack":
        outcome = Outcome(**json.loads(_read(golden.folder / OUTCOME)))
        return _pack_values(outcome, golden.folder / SHARD)
    return dict(unpack_arrays(_read(golden.folder / f"{GIVES[stage]}.npz")))


def _timeless(outcome: Outcome) -> dict[str, Any]:
    return asdict(replace(outcome, seconds={}, cpu_seconds={}))


def _pack_values(outcome: Outcome, shard: Path) -> Values:
    """The outcome's fields, and what is in each clip, by field."""
    values: Values = {f"outcome.{k}": v for k, v in _timeless(outcome).items()}
    if not shard.exists():
        return values
    index = ShardIndex([shard])
    for clip in (index.read_clip(i) for i in range(len(index))):
        fields = dict(vars(clip))
        for part in ("meta", "targets"):
            fields |= {f"{part}.{k}": v for k, v in vars(fields.pop(part) or _Nothing()).items()}
        values |= {f"{clip.key}.{name}": value for name, value in fields.items()}
    return values


class _Nothing:
    """An absent part of a clip."""


def read_golden(folder: Path) -> Golden:
    """What `save_golden` saved. Raises ExtPoseError."""
    try:
        saved = json.loads(_read(folder / GOLDEN))
        unit = Unit(**saved["unit"])
        config = restore_config(saved["config"], source=Path(unit.path), out=folder)
        return Golden(folder=folder, unit=unit, config=config, detector=saved["detector"])
    except (ValueError, TypeError, KeyError) as error:
        raise ExtPoseError(f"{folder / GOLDEN}: not a saved unit ({error!r})") from error


def _find_unit(
    data: Path, name: str, spec: DetectorSpec | None, files: DetectorFiles | None
) -> tuple[Unit, PreprocessConfig, str, DetectorSpec]:
    """A unit of a finished data set, by its manifest; its config; its detector."""
    try:
        manifest = json.loads(_read(data / MANIFEST))
        settings, entries = manifest["settings"], manifest["videos"]
        shards = [shard["name"].removesuffix(".tar") for shard in manifest["shards"]]
        name = name or next(iter(shards), "")
        [entry] = [e for e in entries if e["video_id"] == name.rpartition("-")[0]]
        config = restore_config(settings, source=Path(entry["path"]), out=data)
    except (KeyError, TypeError, ValueError) as error:
        raise ExtPoseError(f"{data}: no unit '{name}' in {MANIFEST} ({error!r})") from error
    config, spec, ours = decide(with_files(config, files), spec)
    # Other code is allowed here: that it gives the same is what replays are for.
    now = {**settings, **{name: ours[name] for name in IDENTITIES if name in ours}}
    refuse_others(data, settings_differences(settings, now))
    unit = find_unit(name, config, spec, settings, Path(entry["path"]))
    return unit, config, _identities(settings), spec


def _identities(settings: Mapping[str, Any]) -> str:
    return " ".join(settings[name] for name in IDENTITIES if name in settings)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExtPoseError(f"{path}: cannot be read ({error.strerror})") from error

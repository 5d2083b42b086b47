"""`extpose rebuild`: a sample made again from its source, and compared byte by byte.

    extpose rebuild walk-1f0c5a3e9b_0_000000 --data data/walk

Decoding, detection, tracking, cropping, drawing and encoding are done again for the unit of the
sample, with the folder's settings, in this process and a temporary folder.
"""

import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path, PurePath
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from extpose.config import PreprocessConfig, SourceConfig
from extpose.errors import ExtPoseError
from extpose.storage import Location, absolute, hash_file, make_folder, make_location, open_stream
from pipelines.arguments import DetectorFiles
from pipelines.committed import MARKERS, read_marker, settings_differences
from pipelines.environment import differences_here
from pipelines.explain import find_clip, read_manifest, video_of
from pipelines.ledger import Outcome, Unit, read_outcome
from pipelines.plan import plan_videos
from pipelines.preprocess import decide, make_unit
from pipelines.stages.detect import DetectorSpec

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """What came of it."""

    members: int
    """Of the sample."""
    differing: tuple[str, ...]
    """Members that are not the same, or are only on one side; none: the sample is the same."""
    libraries: tuple[str, ...] = ()
    """Versions that are not those that made the sample."""


def rebuild(
    key: str,
    data: Location,
    *,
    source: Location | None = None,
    detector: DetectorSpec | None = None,
    files: DetectorFiles | None = None,
) -> Rebuilt:
    """Make the clip `key` of the folder `data` again, from the manifest's video or from `source`.

    `files`: the detector's, where it has some that the user brings.

    Raises ExtPoseError when it cannot be tried: no such clip, another content of the source, other
    versions or detector weights than those of the folder.
    """
    manifest = read_manifest(data)
    shard, clip = find_clip(key, data, manifest)
    video = video_of(clip, manifest)
    if not video:
        raise ExtPoseError(
            f"{shard}: {key}: of the source {clip.meta.source!r}; only clips of `preprocess` can "
            "be made again one by one"
        )
    with tempfile.TemporaryDirectory(prefix="extpose-rebuild-") as folder:
        path = _named_source(video, source, Path(folder))
        config = restore_config(manifest["settings"], source=path, out=Path(folder) / "out")
        config, spec, ours = decide(with_files(config, files), detector)
        refuse_others(data, settings_differences(manifest["settings"], ours))
        made = _make_unit(shard.stem, config, spec, ours, path)
        old, new = read_members(shard, key), read_members(made, key)
    names = sorted({*old, *new})
    return Rebuilt(
        members=len(old),
        differing=tuple(n for n in names if old.get(n) != new.get(n)),
        libraries=_other_libraries(data, shard.stem),
    )


def _other_libraries(data: Location, unit: str) -> tuple[str, ...]:
    marker = read_marker(data, unit, Outcome)
    return differences_here(data, marker.environment) if marker else ()


def read_members(shard: Location, key: str) -> dict[str, bytes]:
    """The members of a sample as they are in the tar."""
    found: dict[str, bytes] = {}
    with open_stream(shard) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            name, _, rest = member.name.partition(".")
            file = tar.extractfile(member) if name == key else None
            if file is not None:
                found[rest] = file.read()
    return found


def _named_source(video: Mapping[str, Any], source: Location | None, folder: Path) -> Location:
    """The video under its first name, which is a part of keys. Raises ExtPoseError."""
    path = source or make_location(video["path"])
    try:
        content = hash_file(path)
    except OSError as error:
        raise ExtPoseError(
            f"{path}: cannot be read ({error}); --source says where it is"
        ) from error
    if content != video["sha256"]:
        raise ExtPoseError(f"{path}: sha256 is {content}, the folder's is {video['sha256']}")
    if PurePath(video["path"]).name == path.name:
        return path
    local = absolute(path)
    if not isinstance(local, Path):
        raise ExtPoseError(f"{path}: must have the name {PurePath(video['path']).name!r}")
    link = folder / PurePath(video["path"]).name
    link.symlink_to(local)
    return link


def restore_config(
    settings: Mapping[str, Any], *, source: Location, out: Location
) -> PreprocessConfig:
    """The config of a data set's settings, as far as they decide its bytes."""
    default = PreprocessConfig(source=SourceConfig(path=(source,)), out=out)
    given = {f.name: settings[f.name] for f in fields(default) if f.name in settings}
    # Plain JSON to the types of the config.
    return _build(PreprocessConfig, {**given, "source": default.source, "out": out})


def with_files(config: PreprocessConfig, files: DetectorFiles | None) -> PreprocessConfig:
    """The config with those files of the detector that are given."""
    given = {name: path for name, path in vars(files or DetectorFiles()).items() if path}
    return replace(config, detect=replace(config.detect, **given))


def refuse_others(data: Location, differences: Sequence[str]) -> None:
    """Raises ExtPoseError where there are differences, and says what may help."""
    if not differences:
        return
    hint = ""
    if any(difference.startswith("detector_identity") for difference in differences):
        hint = "; --detect.weights and --detect.calibration name the detector's files"
    raise ExtPoseError(f"{data}: made with other settings: {'; '.join(differences)}{hint}")


def _build(kind: type[T], values: Mapping[str, Any]) -> T:
    hints = get_type_hints(kind)
    built: dict[str, Any] = {}
    for name, value in values.items():
        hint = hints[name]
        if is_dataclass(hint) and isinstance(value, dict):
            value = _build(hint, value)  # type: ignore[arg-type]
        elif get_origin(hint) is tuple and isinstance(value, list):
            value = tuple(value)
        elif Path in get_args(hint) and isinstance(value, str):
            value = Path(value)
        built[name] = value
    return kind(**built)


def find_unit(
    name: str,
    config: PreprocessConfig,
    spec: DetectorSpec,
    settings: dict[str, Any],
    path: Location,
) -> Unit:
    """The unit of that name, planned again. Raises ExtPoseError."""
    [video] = plan_videos([path], config, settings, identity_of=spec.identity_of)
    unit = next((unit for unit in video.units if unit.name == name), None)
    if unit is None:
        why = video.message or f"its units are {[unit.name for unit in video.units]}"
        raise ExtPoseError(f"{path}: has no unit {name} now: {why}")
    return unit


def _make_unit(
    name: str,
    config: PreprocessConfig,
    spec: DetectorSpec,
    settings: dict[str, Any],
    path: Location,
) -> Location:
    """The unit's shard, made again. Raises ExtPoseError."""
    unit = find_unit(name, config, spec, settings, path)
    make_folder(config.out / MARKERS)
    result = make_unit(unit, config, spec)
    if result["write_error"]:
        raise ExtPoseError(result["write_error"])
    outcome = read_outcome(config.out, unit)
    if outcome is None or not outcome.sha256:
        said = outcome.message if outcome else "no marker"
        raise ExtPoseError(f"{path}: unit {name} makes no shard now ({said})")
    return config.out / f"{name}.tar"

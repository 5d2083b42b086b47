"""Output folders whose units are committed one by one, and survive being killed at any moment.

A unit makes at most one shard, `<unit>.tar`. When it is finished its *marker* is written, one JSON
file `done/<unit>.json`, after the shard; nothing else remembers progress. The folder may be on a
disk or in a store (`extpose.storage`). `settings.json` says which settings the folder is being made
with, `manifest.json` is there only when it is whole.

`survey` looks at a folder and changes nothing; `clear_for` refuses, or makes room for a plan.
"""

import json
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

from extpose import storage
from extpose.errors import ExtPoseError
from extpose.storage import Location, S3Path

MARKERS, MANIFEST, QUARANTINE = "done", "manifest.json", "quarantine.jsonl"
SETTINGS, DETECTIONS, SOURCES = "settings.json", "detections", "sources"
READERS = 16
"""Markers of a store that are read at once."""
SHOWN = 6
"""Differences, or files, that a message names."""


class WriteError(ExtPoseError):
    """The output cannot be written (disk full, no permission): the run stops."""


@dataclass(frozen=True, kw_only=True)
class Committed:
    """What every marker says."""

    name: str
    """The shard's, without `.tar`."""
    identity: str
    """Hash of everything that decides the shard's bytes."""
    clips: int = 0
    sha256: str = ""
    """Of the shard; empty where there is none."""
    num_bytes: int = 0


M = TypeVar("M", bound=Committed)


def marker_of(out: Location, name: str) -> Location:
    """The file that says that a unit is finished."""
    return out / MARKERS / f"{name}.json"


def read_marker(out: Location, name: str, kind: type[M]) -> M | None:
    """What the marker of a unit says; None: there is none. Raises ExtPoseError."""
    path = marker_of(out, name)
    try:
        return kind(**json.loads(storage.read_bytes(path)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        message = f"{path}: not a marker ({error}); delete it to do the unit again"
        raise ExtPoseError(message) from error


def is_whole(out: Location, outcome: Committed) -> bool:
    """Whether the shard of a marker is still there, in its size."""
    if not outcome.sha256:
        return True
    found = storage.find_file(out / f"{outcome.name}.tar")
    return found is not None and found.num_bytes == outcome.num_bytes


def write_marker(out: Location, outcome: Committed) -> None:
    """The last thing that happens to a unit; a shard that it does not have any more goes first."""
    if not outcome.sha256:
        remove(out / f"{outcome.name}.tar")
    write_text(marker_of(out, outcome.name), json.dumps(asdict(outcome), indent=1) + "\n")


def write_text(path: Location, text: str) -> None:
    """Write a file that appears whole or not at all. Raises WriteError."""
    try:
        storage.write_bytes(path, text.encode())
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error})") from error


def remove(path: Location) -> None:
    """Delete a file, if it is there. Raises WriteError."""
    try:
        storage.delete(path)
    except OSError as error:
        raise WriteError(f"{path}: cannot be deleted ({error})") from error


def read_json(path: Location) -> Any:
    """A JSON file; None where it is not. Raises ExtPoseError."""
    try:
        return json.loads(storage.read_bytes(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ExtPoseError(f"{path}: not JSON ({error})") from error


@dataclass(frozen=True, kw_only=True)
class Survey(Generic[M]):
    """What a folder holds, seen from a plan."""

    out: Location
    done: dict[str, M] = field(default_factory=dict)
    """Finished units of the plan, by name."""
    changed: tuple[str, ...] = ()
    """Units that were made with another identity."""
    differences: tuple[str, ...] = ()
    """Settings that the folder has and the plan has not: `name: theirs, now ours`."""
    strangers: tuple[str, ...] = ()
    """Units with a shard in the folder that the plan does not have."""
    leftovers: tuple[str, ...] = ()
    """Units with a marker and no shard that the plan does not have: nobody sees them."""


def survey(
    out: Location, identities: Mapping[str, str], kind: type[M], settings: Mapping[str, Any]
) -> Survey[M]:
    """Compare a folder with a plan: `identities` of its units by name, and its settings.

    Raises ExtPoseError for a marker that cannot be read.
    """
    shards = {e.location.stem: e.num_bytes for e in storage.list_files(out, ".tar")}
    markers = {entry.location.stem for entry in storage.list_files(out / MARKERS, ".json")}
    found = _in_threads(
        out, lambda name: read_marker(out, name, kind), sorted(markers & set(identities))
    )
    outcomes = [outcome for outcome in found if outcome is not None]
    mine = [o for o in outcomes if o.identity == identities[o.name]]
    return Survey(
        out=out,
        done={o.name: o for o in mine if not o.sha256 or shards.get(o.name) == o.num_bytes},
        changed=tuple(o.name for o in outcomes if o.identity != identities[o.name]),
        differences=settings_differences(_settings_of(out) or settings, settings),
        strangers=tuple(sorted(set(shards) - set(identities))),
        leftovers=tuple(sorted(markers - set(shards) - set(identities))),
    )


def _in_threads(out: Location, work: Callable[[str], M | None], names: list[str]) -> list[M | None]:
    """A store answers slowly, but many at once."""
    if not isinstance(out, S3Path) or len(names) < 2:
        return [work(name) for name in names]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(work, names))


def _settings_of(out: Location) -> dict[str, Any] | None:
    """With which the folder is being made, or was."""
    found = read_json(out / SETTINGS)
    if found is None:
        found = (read_json(out / MANIFEST) or {}).get("settings")
    return found if isinstance(found, dict) else None


def settings_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """What is not the same, as `name: old, now new`."""
    ours, theirs = flat_settings(json.loads(json.dumps(new))), flat_settings(old)
    return tuple(
        f"{name}: {theirs.get(name, 'absent')}, now {ours.get(name, 'absent')}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    )


def flat_settings(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        inner = flat_settings(item, f"{prefix}{name}.") if isinstance(item, dict) else None
        flat.update({f"{prefix}{name}": item} if inner is None else inner)
    return flat


def clear_for(
    found: Survey[M],
    settings: Mapping[str, Any],
    *,
    redo: bool,
    prune: bool,
    is_planned: Callable[[str], bool] = lambda _: False,
) -> None:
    """Refuse a folder of something else, or make it one of this plan.

    `redo` allows other settings: what they decide is made again, shard by shard. `prune` allows to
    delete the units that are not of the plan; those of which `is_planned` (other cuts of the same
    videos) go with `redo`. Raises ExtPoseError and WriteError.
    """
    refuse(found, redo=redo, prune=prune, is_planned=is_planned)
    leftovers = [name for name in found.leftovers if prune or (redo and is_planned(name))]
    for name in (*found.strangers, *leftovers):
        remove(found.out / MANIFEST)
        remove_unit(found.out, name)
    if found.differences or storage.find_file(found.out / SETTINGS) is None:
        text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        write_text(found.out / SETTINGS, text)


def refuse(found: Survey[M], *, redo: bool, prune: bool, is_planned: Callable[[str], bool]) -> None:
    """Raises ExtPoseError where `clear_for` would; changes nothing."""
    # Without differences a run with `redo` was stopped half way, and this one goes on with it.
    is_known = storage.find_file(found.out / SETTINGS) is not None
    if not redo and (found.done or found.changed or found.strangers):
        if found.differences:
            raise ExtPoseError(
                f"{found.out}: made with other settings: {_some(found.differences)}; choose "
                "another folder, or --redo to do again what depends on them"
            )
        if found.changed and not is_known:
            raise ExtPoseError(
                f"{found.out}: made with other settings or another version: "
                f"{_some(found.changed)}; choose another folder, or --redo to do them again"
            )
    left = [name for name in found.strangers if not (redo and is_planned(name))]
    if left and not prune:
        raise ExtPoseError(
            f"{found.out / f'{left[0]}.tar'}: not a shard of what was given and these settings "
            f"({len(left)} such); choose another folder, or --prune to delete them"
        )


def _some(names: Collection[str]) -> str:
    shown = "; ".join(list(names)[:SHOWN])
    return shown + (f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def remove_unit(out: Location, name: str) -> None:
    """Delete a unit: first what says that it is there."""
    remove(marker_of(out, name))
    remove(out / f"{name}.tar")
    remove(out / DETECTIONS / f"{name}.npz")
    remove(out / SOURCES / f"{name}.json")

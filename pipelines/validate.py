"""`extpose validate`: every fault of a folder of shards, with file, key, field and values.

    extpose validate data/walk --workers 8

Checked: the manifest (checksums, counts, nothing missing, nothing besides), every member against
the contract (docs/data.md), every picture, every drawing against its keypoints, boxes, crops,
times, and labels against plausible people.

Faults end in exit code 1. Warnings are what right data can look like too (a detector that takes
left for right in a frame); they end in 0, with `--strict` in 1.
"""

import json
import logging
import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
from tqdm import tqdm

from extpose.config import CropConfig, SkeletonConfig
from extpose.data.faults import Fault, FaultKind
from extpose.storage import Location, hash_file, list_files, name_in, read_bytes
from pipelines.accounts import account_faults, shape_faults
from pipelines.ledger import MANIFEST
from pipelines.shard_faults import Finding, ShardReport, check_shard

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Manifest:
    """What the folder says about itself."""

    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By name."""
    totals: dict[str, Any] = field(default_factory=dict)
    """The manifest without its shards."""
    skeleton: SkeletonConfig | None = None
    crop: CropConfig | None = None


def validate(folder: Location, *, workers: int = 0, strict: bool = False) -> int:
    """Log every fault and a summary; 0 when there is none (`strict`: no warning either), else 1.

    `workers` processes share the shards; 0: this one.
    """
    start, counts, num_shards = time.monotonic(), Counter[str](), len(list_shards(folder))
    for finding in find_faults(folder, workers=workers):
        counts[finding.fault.kind] += finding.fault.is_certain
        counts["warnings"] += not finding.fault.is_certain
        if finding.fault.is_certain:
            log.error("%s", finding)
        else:
            log.warning("warning: %s", finding)
    warnings = counts.pop("warnings", 0)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()) if count)
    seconds = time.monotonic() - start
    log.info(
        "%s: %d shards, %d faults%s, %d warnings; %.1f s, %.2f shards/s",
        folder, num_shards, counts.total(), f" ({kinds})" if kinds else "", warnings, seconds,
        num_shards / max(seconds, 1e-9),
    )  # fmt: skip
    return 1 if counts.total() or (strict and warnings) else 0


def list_shards(folder: Location) -> list[Location]:
    """The shards of a folder, to the bottom."""
    return [entry.location for entry in list_files(folder, ".tar", deep=True)]


def find_faults(folder: Location, *, workers: int = 0) -> Iterator[Finding]:
    """Every fault and warning, in the order of the shards, whatever the number of workers.

    Memory holds a clip a worker, and the keys of the folder.
    """
    paths = list_shards(folder)
    if not paths:
        yield _of_folder("no_shards", folder, "no shards (*.tar) in this folder")
        return
    manifest, findings = _read_manifest(folder)
    yield from findings
    seen: dict[str, str] = {}
    unlisted = dict(manifest.shards)
    for path, report in zip(paths, _check_all(paths, manifest, workers), strict=True):
        yield from report.findings
        for key in report.keys:
            if key in seen:
                fault = Fault(kind="duplicate_key", message=f"key is also in {seen[key]}")
                yield Finding(path=report.path, key=key, fault=fault)
            seen[key] = report.path
        if manifest.totals:
            entry = unlisted.pop(name_in(folder, path), None)
            yield from _find_listing_faults(report, entry)
    for name in unlisted:
        yield _of_folder("missing_shard", folder / name, f"in {MANIFEST}, but not there")
    yield from _find_total_faults(folder, manifest)
    for message in account_faults(folder):
        yield Finding(path="", fault=Fault(kind="count_mismatch", message=message))


def _of_folder(kind: FaultKind, path: Location, message: str) -> Finding:
    return Finding(path=str(path), fault=Fault(kind=kind, message=message))


def _read_manifest(folder: Location) -> tuple[Manifest, list[Finding]]:
    """The manifest as far as it can be understood, and what is wrong with it."""
    path, manifest = folder / MANIFEST, Manifest()
    try:
        content = json.loads(read_bytes(path))
        manifest.shards = {shard["name"]: shard for shard in content["shards"]}
        if len(manifest.shards) != len(content["shards"]):
            raise ValueError("a shard is listed twice")
        if not all(isinstance(name, str) for name in manifest.shards):
            raise ValueError("the name of a shard is not a text")
        settings = content["settings"]
        manifest.skeleton = SkeletonConfig(**settings["skeleton"])
        manifest.crop = CropConfig(**settings["crop"]) if "crop" in settings else None
        manifest.totals = {name: value for name, value in content.items() if name != "shards"}
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = f"not a readable manifest ({error!r})"
        return Manifest(), [_of_folder("bad_manifest", path, message)]
    return manifest, [_of_folder("bad_manifest", path, fault) for fault in shape_faults(content)]


def _check_all(paths: list[Location], manifest: Manifest, workers: int) -> Iterator[ShardReport]:
    """Reports in the order of the shards; not more than two a worker are on their way."""
    jobs = ((path, manifest.skeleton, manifest.crop) for path in paths)
    bar = tqdm(total=len(paths), desc="validate", unit="shard", leave=False)
    with bar:
        if workers == 0:
            for job in jobs:
                yield _check(*job)
                bar.update()
            return
        # Spawned: a forked child would inherit the threads' locks of whatever calls this.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_calm) as pool:
            waiting: deque[Future[ShardReport]] = deque()
            for job in jobs:
                waiting.append(pool.submit(_check, *job))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
                    bar.update()
            while waiting:
                yield waiting.popleft().result()
                bar.update()


def _calm() -> None:
    """One thread a process: there is a process a core."""
    cv2.setNumThreads(1)


def _check(path: Location, skeleton: SkeletonConfig | None, crop: CropConfig | None) -> ShardReport:
    report = check_shard(path, skeleton=skeleton, crop=crop)
    try:
        report.sha256 = hash_file(path)
    except OSError as error:
        report.add("bad_tar", f"cannot be read ({error})")
    return report


def _find_listing_faults(report: ShardReport, entry: dict[str, Any] | None) -> Iterator[Finding]:
    """The shard against its line in the manifest."""

    def found(kind: FaultKind, message: str) -> Finding:
        return Finding(path=report.path, fault=Fault(kind=kind, message=message))

    if entry is None:
        yield found("not_in_manifest", f"not in {MANIFEST}")
        return
    if not report.is_whole:
        return  # Of a broken shard neither count nor sum can be right; why was said.
    if report.sha256 != entry.get("sha256"):
        message = f"sha256 is {report.sha256}, {MANIFEST} says {entry.get('sha256')}"
        yield found("hash_mismatch", message)
    for name, value in (("clips", len(report.keys)), ("frames", report.num_frames)):
        if entry.get(name) != value:
            yield found("count_mismatch", f"{name} is {value}, {MANIFEST} says {entry.get(name)}")


def _find_total_faults(folder: Location, manifest: Manifest) -> Iterator[Finding]:
    """Whether the manifest's sums are those of its lines."""
    path = folder / MANIFEST
    for name in ("clips", "frames"):
        said = manifest.totals.get(name)
        values = [value for s in manifest.shards.values() if isinstance(value := s.get(name), int)]
        if said is not None and len(values) == len(manifest.shards) and sum(values) != said:
            message = f"{name} is {said}, its shards have {sum(values)}"
            yield _of_folder("count_mismatch", path, message)

"""One shard of a folder, looked through from the tar's headers to the pixels.

The strict reader (`extpose.data.shards`) stops at the first fault of a shard; this one goes on, and
tells apart what looks alike to a reader: members that lie mixed, a key that comes twice, a file
that was cut off. Memory holds one clip and the list of members.
"""

import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from extpose.config import CropConfig, SkeletonConfig
from extpose.data.checks import find_clip_faults
from extpose.data.codec import (
    ARRAYS,
    MAX_KEY,
    META,
    assemble,
    find_array_faults,
    member_names,
    read_arrays,
    read_meta,
)
from extpose.data.faults import Fault, FaultKind
from extpose.data.shard_index import TAR_END
from extpose.errors import ShardError
from extpose.schema import MAX_CLIP_FRAMES
from extpose.storage import Location, find_file, open_stream

_MEMBER = re.compile(r"(.*?)\.(meta\.json|arrays\.npz|\d{3}\.jpg|\d{3}\.skeleton\.png)", re.DOTALL)
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PICTURE = re.compile(r"(\d{3})\.(jpg|skeleton\.png)")
PICKLE_SUFFIXES = (".pkl", ".pickle", ".pyd", ".pth", ".pt", ".ckpt", ".joblib")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A fault and where it is."""

    path: str
    key: str = ""
    fault: Fault

    def __str__(self) -> str:
        return ": ".join(part for part in (self.path, self.key, str(self.fault)) if part)


@dataclass(kw_only=True)
class ShardReport:
    """What is in a shard, and every fault of it."""

    path: str
    keys: list[str] = field(default_factory=list)
    num_frames: int = 0
    is_whole: bool = True
    """False where the tar or a clip's members are such that nothing can be counted."""
    sha256: str = ""
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: FaultKind, message: str, key: str = "") -> None:
        """Note a fault."""
        self.add_fault(Fault(kind=kind, message=message), key)

    def add_fault(self, fault: Fault, key: str = "") -> None:
        """Note a fault of a clip, or of the file."""
        self.findings.append(Finding(path=self.path, key=key, fault=fault))


@dataclass(frozen=True)
class _Member:
    name: str
    """Without the key."""
    offset: int
    size: int


Read = Callable[[_Member], bytes]


def check_shard(
    path: Location, *, skeleton: SkeletonConfig | None, crop: CropConfig | None
) -> ShardReport:
    """Every fault of a shard. `skeleton` and `crop`: what it was made with, where that is known."""
    report = ShardReport(path=str(path))
    try:
        runs = list(_read_runs(path, report))
        with open_stream(path) as file:
            for key, members, is_mixed in _join_runs(runs, report):
                report.keys.append(key)

                def read(member: _Member) -> bytes:
                    file.seek(member.offset)
                    return file.read(member.size)

                if _check_members(report, key, members, is_mixed=is_mixed, read=read):
                    _check_clip(report, key, {m.name: read(m) for m in members}, skeleton, crop)
    except OSError as error:
        report.add("bad_tar", f"cannot be read ({error})")
        report.is_whole = False
    return report


def _read_runs(path: Location, report: ShardReport) -> Iterator[tuple[str, list[_Member]]]:
    """Stretches of members with one key. What was cut off is left out, and said."""
    size, end = _size(path), 0
    key, members = "", list[_Member]()
    try:
        with open_stream(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for entry in tar:
                data_end = entry.offset_data + entry.size
                if data_end > size:
                    report.add(
                        "truncated", f"truncated in {entry.name}, {size} of {data_end} bytes"
                    )
                    report.is_whole = False
                    return
                end = -(-data_end // 512) * 512
                if not entry.isreg():
                    report.add("not_a_file", f"{entry.name}: not a plain file")
                    continue
                found, name = _split(entry.name)
                if found != key and members:
                    yield key, members
                    members = []
                key = found
                members.append(_Member(name, entry.offset_data, entry.size))
    except tarfile.ReadError as error:
        # An empty or foreign file has no first header; later, a header was cut in two.
        kind: FaultKind = "truncated" if end or size < 512 else "bad_tar"
        report.add(kind, f"{'truncated' if kind == 'truncated' else 'not a tar'} ({error})")
        report.is_whole = False
        return
    report.is_whole = _check_end(path, end, report)
    if members and report.is_whole:
        yield key, members


def _size(path: Location) -> int:
    found = find_file(path)
    if found is None:
        raise FileNotFoundError("it is gone")
    return found.num_bytes


def _check_end(path: Location, end: int, report: ShardReport) -> bool:
    """Whether nothing but zeros follows the last member, and enough of them."""
    with open_stream(path) as file:
        file.seek(end)
        rest = file.read(TAR_END + 1)
        while chunk := file.read(1 << 20):
            rest = rest[:TAR_END] + (b"x" if chunk.strip(b"\0") else b"\0")
    if rest.strip(b"\0"):
        report.add("bad_tar", f"the tar breaks off at byte {end}: what follows is no member")
        return False
    if len(rest) < TAR_END:
        report.add("truncated", f"truncated, no end of archive behind byte {end}")
        return False
    return True


def _split(name: str) -> tuple[str, str]:
    """Key and rest of a member's name; of the contract's members the key may hold dots."""
    if match := _MEMBER.fullmatch(name):
        return match[1], match[2]
    key, _, rest = name.partition(".")
    return key, rest


def _join_runs(
    runs: list[tuple[str, list[_Member]]], report: ShardReport
) -> Iterator[tuple[str, list[_Member], bool]]:
    """Each key once, with its members and whether they lie between those of others."""
    # A member of another kind has what stands before its first dot for a key: of a dotted key,
    # that is the part that it shares with the clip beside it.
    together: dict[str, list[list[_Member]]] = {}
    for key, members in runs:
        together.setdefault(key, []).append(members)
    for key, parts in together.items():
        names = Counter(member.name for part in parts for member in part)
        repeated = sorted(name for name, count in names.items() if count > 1)
        members = [member for part in parts for member in part]
        if META in repeated or (repeated and len(parts) > 1):
            report.add("duplicate_key", f"key is used {max(names.values())} times", key)
            report.is_whole = False
            members = list({member.name: member for member in reversed(members)}.values())[::-1]
        elif repeated:
            report.add("repeated_member", f"members: repeated {repeated}", key)
            report.is_whole = False
            continue
        elif len(parts) > 1:
            message = f"members: interleaved with those of other keys, in {len(parts)} pieces"
            report.add("interleaved", message, key)
        yield key, members, len(parts) > 1


def _check_members(
    report: ShardReport, key: str, members: list[_Member], *, is_mixed: bool, read: Read
) -> bool:
    """Whether the clip has the contract's members, so that their content can be checked."""
    by_name = {member.name: member for member in members}
    start = len(report.findings)
    if "." in key or "/" in key:
        report.add(
            "dotted_key", "key has dots or slashes: readers split names at the first dot", key
        )
    elif not _KEY.fullmatch(key) or len(key) > MAX_KEY:
        report.add("bad_key", f"key needs 1 to {MAX_KEY} of A-Z a-z 0-9 _ -", key)
    has_good_key = len(report.findings) == start
    numbers = {int(match[1]) for name in by_name if (match := _PICTURE.fullmatch(name))}
    num_frames = _count_frames(by_name, numbers, read)
    report.num_frames += num_frames
    expected = member_names(num_frames)
    for name in sorted(by_name.keys() - set(expected)):
        _report_stranger(report, key, by_name[name], num_frames, read)
    for name in [name for name in expected if name not in by_name]:
        report.add("missing_member", f"{name}: missing, {num_frames} frames", key)
    if not 1 <= num_frames <= MAX_CLIP_FRAMES:
        report.add("extra_frame", f"{num_frames} frames, allowed 1 to {MAX_CLIP_FRAMES}", key)
    is_complete = len(report.findings) == start + (not has_good_key)
    names = [member.name for member in members]
    if is_complete and not is_mixed and names != expected:
        at = next(i for i, name in enumerate(names) if name != expected[i])
        message = f"members: {names[at]} where {expected[at]} should be"
        report.add("member_order", message, key)
    if not is_complete:
        report.is_whole = False
    return is_complete


def _count_frames(by_name: dict[str, _Member], numbers: set[int], read: Read) -> int:
    """As many as the arrays say; where they cannot be read, as the pictures are numbered."""
    if ARRAYS in by_name:
        arrays, _ = read_arrays(read(by_name[ARRAYS]))
        names = ("bbox_xyxy", "crop_to_img", "keypoints_2d", "timestamps", "is_detected")
        lengths = [len(arrays[name]) for name in names if name in arrays and arrays[name].ndim]
        if lengths:
            # Of arrays that differ, the most common length is the clip's.
            return Counter(lengths).most_common(1)[0][0]
    return max(numbers, default=-1) + 1


def _report_stranger(
    report: ShardReport, key: str, member: _Member, num_frames: int, read: Read
) -> None:
    if match := _PICTURE.fullmatch(member.name):
        message = f"{member.name}: frame {int(match[1])} is too many, the arrays have {num_frames}"
        report.add("extra_frame", message, key)
        return
    start = read(_Member(member.name, member.offset, min(member.size, 2)))
    is_pickle = start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")
    if is_pickle or member.name.endswith(PICKLE_SUFFIXES):
        message = f"{member.name}: a pickle, which runs code when it is read; not opened"
        report.add("pickle_member", message, key)
    else:
        report.add("unknown_member", f"{member.name}: unknown member", key)


def _check_clip(
    report: ShardReport,
    key: str,
    data: dict[str, bytes],
    skeleton: SkeletonConfig | None,
    crop: CropConfig | None,
) -> None:
    """The content of a clip's members."""
    meta, faults = read_meta(data[META])
    arrays, more = read_arrays(data[ARRAYS])
    num_frames = (len(data) - 2) // 2
    if meta is not None and not more:
        more = list(find_array_faults(arrays, meta, num_frames))
    for fault in [*faults, *more]:
        report.add_fault(fault, key)
    if meta is None or more:
        return
    names = member_names(num_frames)[2:]
    images = [data[name] for name in names]
    try:
        # The key is checked already, and a bad one must not hide the rest.
        clip = assemble("k", meta, arrays, rgb=images[0::2], skeleton=images[1::2], where="")
    except ShardError as error:
        report.add("bad_arrays", str(error), key)
        return
    for fault in find_clip_faults(clip, skeleton=skeleton, crop=crop):
        report.add_fault(fault, key)

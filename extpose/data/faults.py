"""What can be wrong with a shard: one stable name for each fault, and the sentence for people."""

from dataclasses import dataclass
from typing import Literal

FaultKind = Literal[
    # Of a folder.
    "no_shards", "bad_manifest", "not_in_manifest", "missing_shard", "hash_mismatch",
    "count_mismatch",
    # Of a tar and its members.
    "bad_tar", "truncated", "not_a_file", "interleaved", "duplicate_key", "bad_key", "dotted_key",
    "missing_member", "extra_frame", "unknown_member", "repeated_member", "member_order",
    "pickle_member",
    # Of a clip's numbers.
    "schema_version", "bad_meta", "fps", "bad_arrays", "dtype_or_shape", "not_finite", "confidence",
    "timestamps", "box", "box_off_image", "affine", "rotation", "intrinsics", "betas",
    "keypoints_in_crop", "keypoints_off_box", "bridged", "sides_swapped", "joint_order",
    # Of a clip's pictures.
    "undecodable", "picture_size", "not_the_drawing",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of a clip, a shard or a folder."""

    kind: FaultKind
    message: str
    """Names the field and the values; who reports it puts file and key before it."""
    is_certain: bool = True
    """False: it looks wrong, but right data can look so."""

    def __str__(self) -> str:
        return self.message

"""The training tars of HMR2.0 (4D-Humans) and of HaMeR: pictures with fitted bodies or hands.

Files   any `*.tar` below the root; one tar is one unit
Sample  `KEY.jpg` (or jpeg, png), `KEY.data.pyd` (a pickle: a list of dicts, one a person), and
        `KEY.detection.npz` (masks, which no released network uses; they are not read)
Person  `keypoints_2d` (44, 3) or (21, 3); `center` (2,) and `scale` (2,), the box in pixels and in
        pixels / 200. May have: `keypoints_3d` (k, 4); `body_pose` (72,) and `has_body_pose`, or
        `hand_pose` (48,) and `has_hand_pose`; `betas` (10,) and `has_betas`; `extra_info`. A hand
        has `right`.
Units   pixels, metres along the camera's axes, axis-angles; the translation is not known

44 keypoints are a body, 21 a hand; both may lie in one tar. Left hands are as in the picture, and
so are their rotations: the loader mirrors. Pickles are read by a reader that builds numbers, text
and arrays, and nothing else: one that asks for more is refused by the name it asked for.

HMR2.0's rules of what to leave out are those of `pipelines/labels/hmr2_filters.py`. Nine pictures
of AIC that its authors list as broken are filtered as `listed_as_broken`; boxes outside the picture
as `outside`. A sample that cannot be used is quarantined alone.

The layout was learned from the loaders of both projects, and tested on a tar in it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from extpose.detect.people import Track
from extpose.errors import AssetError
from extpose.pickles import parse_pickle
from extpose.schema import BodyName, ClipTargets, Split
from pipelines.labels.annotations import to_floats
from pipelines.labels.hmr2_filters import TarPerson, apply_filters, find_histogram, load_density
from pipelines.labels.tar_samples import TarSample, list_samples
from pipelines.labels.tracks import make_track, to_evidence
from pipelines.records import (
    Damaged,
    Filtered,
    FrameRef,
    Record,
    Source,
    SourceError,
    empty_targets,
)
from pipelines.source_files import note_file

PICTURES, LABELS = ("jpg", "jpeg", "png"), "data.pyd"
AIC_BROKEN = frozenset({
    "0a047f0124ae48f8eee15a9506ce1449ee1ba669", "1a703aa174450c02fbc9cfbf578a5435ef403689",
    "0394e6dc4df78042929b891dbc24f0fd7ffb6b6d", "5c032b9626e410441544c7669123ecc4ae077058",
    "ca018a7b4c5f53494006ebeeff9b4c0917a55f07", "4a77adb695bef75a5d34c04d589baf646fe2ba35",
    "a0689017b1065c664daef4ae2d14ea03d543217e", "39596a45cbd21bed4a5f9c2342505532f8ec5cbb",
    "3d33283b40610d87db660b62982f797d50a7366b",
})  # fmt: skip
"""Pictures of AIC's training set; keys are `aic-train/ID` or `aic-train-vitpose/ID`."""
_SIZES: dict[int, tuple[BodyName, str, int]] = {
    44: ("smpl", "body_pose", 24),
    21: ("mano", "hand_pose", 16),
}
"""By number of keypoints: the body, the field of its pose, and rotations with the root."""


def list_units(root: Path, split: Split) -> list[str]:
    """The tars below the root."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.tar"))


def read_unit(root: Path, split: Split, unit: str) -> Iterator[Record | Filtered | Damaged]:
    """The people of a tar."""
    samples, damage = list_samples(root / unit)
    histogram = find_histogram(root)
    density = load_density(note_file(histogram)) if histogram else None
    for sample in samples:
        name = f"{unit.removesuffix('.tar')}-{sample.key}"
        try:
            people = _read_people(sample)
        except (SourceError, AssetError, OSError) as error:
            yield Damaged(name=name, num_frames=0, message=str(error))
            continue
        if _is_listed_as_broken(sample.key):
            yield Filtered(name=name, num_frames=len(people), reason="listed_as_broken")
            continue
        yield from _read_sample(sample, name, people, density)
    if damage:
        yield Damaged(name=unit, num_frames=0, message=damage)


def _is_listed_as_broken(key: str) -> bool:
    folder, _, picture = key.rpartition("/")
    return folder in ("aic-train", "aic-train-vitpose") and picture in AIC_BROKEN


def _read_people(sample: TarSample) -> list[dict[str, Any]]:
    """The content of the pickle. Raises SourceError and AssetError naming tar and member."""
    where = f"{sample.path}: {sample.key}"
    if sample.repeated:
        raise SourceError(f"{where}: members {sorted(sample.repeated)} are there twice")
    if LABELS not in sample.members:
        raise SourceError(f"{where}: no {LABELS}, has {sorted(sample.members)}")
    people = parse_pickle(sample.read(LABELS), f"{where}.{LABELS}")
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise SourceError(f"{where}.{LABELS}: holds no list of dicts, one a person")
    return people


def _read_sample(
    sample: TarSample,
    name: str,
    people: list[dict[str, Any]],
    density: Float32[np.ndarray, "21 n n n"] | None,
) -> Iterator[Record | Filtered | Damaged]:
    """The people of a picture, which is decoded once, and only if somebody is kept."""
    kept: list[tuple[str, TarPerson, tuple[str, ...]]] = []
    for i, content in enumerate(people):
        number, where = f"{name}-{i}", f"{sample.path}: {sample.key}.{LABELS}: person {i}"
        try:
            person, notes, reason = apply_filters(parse_person(where, content), density)
        except SourceError as error:
            yield Damaged(name=number, num_frames=1, message=str(error))
            continue
        if reason:
            yield Filtered(name=number, num_frames=1, reason=reason)
        else:
            kept.append((number, person, notes))
    if not kept:
        return
    try:
        span, size = _find_picture(sample)
    except SourceError as error:
        yield Damaged(name=name, num_frames=len(kept), message=str(error))
        return
    for number, person, notes in kept:
        x0, y0, x1, y1 = person.bbox_xyxy
        if x1 < 0 or y1 < 0 or x0 > size[1] or y0 > size[0]:
            yield Filtered(name=number, num_frames=1, reason="outside")
        else:
            frame = FrameRef(path=sample.path, span=span)
            yield _make_record(number, frame, size, person, notes)


def _find_picture(sample: TarSample) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the picture is in the tar, and its height and width."""
    where = f"{sample.path}: {sample.key}"
    found = [name for name in PICTURES if name in sample.members]
    if not found:
        raise SourceError(
            f"{where}: no picture ({', '.join(PICTURES)}), has {sorted(sample.members)}"
        )
    data = np.frombuffer(sample.read(found[0]), np.uint8)
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(data, flags) if len(data) else None
    if image is None:
        raise SourceError(f"{where}.{found[0]}: {len(data)} bytes that are no readable picture")
    return sample.members[found[0]], (int(image.shape[0]), int(image.shape[1]))


@dataclass(frozen=True)
class _Fields:
    """A person's dict; complaints begin with `where`."""

    where: str
    content: Mapping[str, Any]

    def get(self, key: str) -> Any:
        """The value. Raises SourceError where there is none."""
        if key not in self.content:
            have = sorted(map(str, self.content))
            raise SourceError(f"{self.where}: no {key}, has {have}")
        return self.content[key]

    def floats(
        self, key: str, *shape: int, default: float | None = None
    ) -> Float64[np.ndarray, "..."]:
        """Finite numbers of a shape; all `default` where the key is not there."""
        if key not in self.content and default is not None:
            return np.full(shape, default)
        return to_floats(Path(self.where), key, self.get(key), shape)

    def flag(self, key: str) -> bool:
        """0 or 1 as any kind of number; False where the key is not there."""
        value = np.asarray(self.content.get(key, 0))
        if value.size != 1 or value.dtype.kind not in "fiub" or value.ravel()[0] not in (0, 1):
            raise SourceError(f"{self.where}: {key} is {self.content[key]!r}, expected 0 or 1")
        return bool(value.ravel()[0])

    def points(self, key: str, num: int, width: int) -> Float64[np.ndarray, "k c"]:
        """Points whose last column is a confidence; where it is 0 the rest may be anything."""
        if key not in self.content and key != "keypoints_2d":
            return np.zeros((num, width))
        array = np.asarray(self.get(key))
        if array.shape != (num, width) or array.dtype.kind not in "fiu":
            said = f"{array.dtype} of shape {array.shape}"
            raise SourceError(f"{self.where}: {key} is {said}, expected numbers ({num}, {width})")
        confidence = array[:, -1].astype(np.float64)
        if not (np.isfinite(confidence) & (confidence >= 0)).all():
            raise SourceError(
                f"{self.where}: {key} has confidences {confidence.min()} to {confidence.max()}, "
                "they must be finite and not negative"
            )
        points = to_floats(Path(self.where), key, array, (num, width), used=confidence > 0)
        # Detectors give a little more than 1.
        points[:, -1] = np.minimum(points[:, -1], 1)
        return points


def parse_person(where: str, content: Mapping[str, Any]) -> TarPerson:
    """A person's dict, checked. Raises SourceError naming the field and what it should be."""
    fields = _Fields(where, content)
    shape = np.shape(fields.get("keypoints_2d"))
    if len(shape) != 2 or shape[0] not in _SIZES or shape[1] != 3:
        raise SourceError(f"{where}: keypoints_2d has shape {shape}, expected (44, 3) or (21, 3)")
    body, pose, num_rotations = _SIZES[shape[0]]
    if body == "mano":
        fields.get("right")
    has_pose, has_betas = fields.flag(f"has_{pose}"), fields.flag("has_betas")
    for key, is_said in ((pose, has_pose), ("betas", has_betas)):
        if is_said and key not in content:
            raise SourceError(f"{where}: has_{key} is 1, and there is no {key}")
    centre, sides = fields.floats("center", 2), fields.floats("scale", 2) * 200
    if not (sides > 0).all():
        raise SourceError(f"{where}: scale is {(sides / 200).tolist()}, must be positive")
    return TarPerson(
        keypoints_2d=fields.points("keypoints_2d", shape[0], 3),
        keypoints_3d=fields.points("keypoints_3d", shape[0], 4),
        bbox_xyxy=np.concatenate([centre - sides / 2, centre + sides / 2]),
        rotations=fields.floats(pose, 3 * num_rotations, default=0.0).reshape(-1, 3),
        betas=fields.floats("betas", 10, default=0.0),
        has_pose=has_pose,
        has_betas=has_betas,
        is_right=fields.flag("right") if body == "mano" else None,
        reprojection_loss=_read_loss(where, content.get("extra_info")),
    )


def _read_loss(where: str, extra: object) -> float | None:
    """`extra_info['fitting_loss']` is a dict, mostly in an array without axes."""
    if extra is None:
        return None
    if not isinstance(extra, dict):
        raise SourceError(f"{where}: extra_info is a {type(extra).__name__}, expected a dict")
    losses = extra.get("fitting_loss", {})
    if isinstance(losses, np.ndarray) and losses.shape == ():
        losses = losses.item()
    if not isinstance(losses, dict):
        raise SourceError(f"{where}: fitting_loss is a {type(losses).__name__}, expected a dict")
    value = losses.get("reprojection_loss")
    if value is None:
        return None
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise SourceError(f"{where}: reprojection_loss is {value!r}, expected a number")
    return float(array.ravel()[0])


def _make_record(
    name: str,
    frame: FrameRef,
    size: tuple[int, int],
    person: TarPerson,
    notes: tuple[str, ...],
) -> Record:
    body: BodyName = "smpl" if person.is_right is None else "mano"
    labels = person.keypoints_2d.astype(np.float32)[None]
    return Record(
        name=name,
        frames=(frame,),
        image_size=size,
        fps=1.0,
        track=_make_track(person, labels, body),
        targets=_make_targets(person, labels, body),
        intrinsics=None,
        body=body,
        is_right=person.is_right,
        notes=notes,
    )


def _make_track(person: TarPerson, labels: Float32[np.ndarray, "1 k 3"], body: BodyName) -> Track:
    evidence = to_evidence(labels) if body == "smpl" else labels
    return make_track(person.bbox_xyxy[None].astype(np.float32), evidence)


def _make_targets(
    person: TarPerson, labels: Float32[np.ndarray, "1 k 3"], body: BodyName
) -> ClipTargets:
    targets = replace(
        empty_targets(body, 1),
        keypoints_2d=labels,
        keypoints_3d=person.keypoints_3d.astype(np.float32)[None],
    )
    if not person.has_pose:  # both or neither, see the filters
        return targets
    return replace(
        targets,
        global_orient=person.rotations[None, 0].astype(np.float32),
        pose=person.rotations[None, 1:].astype(np.float32),
        betas=person.betas.astype(np.float32),
        has_pose=np.ones(1, bool),
        has_betas=np.array(True),
    )


SOURCE = Source(
    name="hmr2-tars",
    splits=("train", "val", "test"),
    list_units=list_units,
    read_unit=read_unit,
    layout="""*.tar: KEY.jpg, KEY.data.pyd
amass_poses_hist100_SMPL+H_G.npy (HMR2.0's histogram; without it poses are not filtered)""",
    licence="of the data sets inside; github.com/shubham-goel/4D-Humans, "
    "github.com/geopavlakos/hamer",
)

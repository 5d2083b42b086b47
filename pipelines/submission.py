"""`pred.json`: what the servers of FreiHAND and HO3D read.

`[joints of every picture (21 x 3), vertices of every picture (778 x 3)]`, metres, in the order of
the benchmark's own list of pictures.

FreiHAND   pictures by number, OpenCV's camera axes, joints in the order of `hand21`
HO3D       pictures as in `evaluation.txt`, OpenGL's camera axes (y up, z towards the viewer; the
           server refuses a positive z), its own joint order (`Protocol.submission_order`)
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from extpose.errors import ExtPoseError
from extpose.evaluation.posed import JointReader
from extpose.predictions import ClipPrediction
from pipelines.records import SourceError

OPENGL = np.array([1.0, -1.0, -1.0])
PREDICTIONS = "pred.json"
Picture = tuple[str, int]
"""A sequence (none for FreiHAND) and the number in it."""


def write_submission(
    root: Path, out: Path, predictions: Mapping[str, ClipPrediction], reader: JointReader
) -> Path:
    """Write the file below `out`; `root` is the data set's folder. Returns its path.

    Raises:
        ExtPoseError: the protocol has no server, or a picture of its list was not predicted.
        SourceError: the list is not there.
    """
    protocol = reader.protocol
    if protocol.submission_order is None:
        raise ExtPoseError(f"protocol {protocol.name} has no server to submit to")
    is_ho3d = protocol.name.startswith("ho3d")
    wanted = list_ho3d(root) if is_ho3d else list_freihand(root)
    axes = OPENGL if is_ho3d else np.ones(3)
    joints: dict[Picture, list] = {}
    vertices: dict[Picture, list] = {}
    for key, found in predictions.items():
        output = found.posed(reader.body, is_right=True)
        posed = reader.read(output)
        assert posed.joints is not None
        for frame in range(len(found.global_orient)):
            picture = picture_of(key, frame, is_ho3d=is_ho3d)
            ordered = posed.joints[frame].numpy()[list(protocol.submission_order)]
            joints[picture] = (ordered * axes).tolist()
            vertices[picture] = (output.vertices[frame].numpy() * axes).tolist()
    if missing := [picture for picture in wanted if picture not in joints]:
        raise ExtPoseError(
            f"{out / PREDICTIONS}: {len(missing)} of {len(wanted)} pictures of {root} were not "
            f"predicted, such as {missing[:3]}"
        )
    path = out / PREDICTIONS
    content = [[joints[picture] for picture in wanted], [vertices[picture] for picture in wanted]]
    path.write_text(json.dumps(content))
    return path


def picture_of(key: str, frame: int, *, is_ho3d: bool) -> Picture:
    """Of a frame of a clip that `extpose ingest` made: its key says sequence and number."""
    video, _, first_frame = key.rsplit("_", 2)
    name, number = video.rsplit("-", 1)
    if is_ho3d:
        return name.split("-", 2)[2], int(first_frame) + frame
    return "", int(number) + frame


def list_freihand(root: Path) -> list[Picture]:
    """The pictures of the evaluation set, by number. Raises SourceError."""
    folder = root / "evaluation" / "rgb"
    numbers = sorted(int(path.stem) for path in folder.glob("*.jpg"))
    if not numbers:
        raise SourceError(f"{folder}: no pictures")
    return [("", number) for number in numbers]


def list_ho3d(root: Path) -> list[Picture]:
    """The lines `SEQUENCE/NUMBER` of `evaluation.txt`. Raises SourceError."""
    path = root / "evaluation.txt"
    try:
        lines = path.read_text().split()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error})") from error
    try:
        pairs = [line.split("/") for line in lines]
        return [(sequence, int(number)) for sequence, number in pairs]
    except ValueError as error:
        raise SourceError(f"{path}: lines are SEQUENCE/NUMBER, not so: {error}") from error

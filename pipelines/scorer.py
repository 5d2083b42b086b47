"""One shard: predict its clips (or take given predictions), and score them under every protocol.

A `ShardScorer` lives in this process or in a Ray actor; what it returns is small, because a clip's
vertices are dropped as soon as the clip is scored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float

from extpose.body_model import BodyModel, BodyOutput, load_body_model
from extpose.config import CropConfig, EvaluateConfig
from extpose.data.augment import flip_targets
from extpose.data.clip import encode_png, redraw_skeleton
from extpose.data.crop import network_box
from extpose.data.shards import ShardIndex
from extpose.errors import ExtPoseError
from extpose.evaluation.posed import JointReader, load_reader
from extpose.evaluation.protocol import Protocol
from extpose.evaluation.protocols import PROTOCOLS
from extpose.evaluation.scoring import ClipScores, score_clip
from extpose.evaluation.truth import read_truth
from extpose.geometry import mirror_points
from extpose.inference import Network, predict_clip
from extpose.keypoints import COCO17_OF_BODY44
from extpose.model.weights import load_model
from extpose.motion import join_motion, mirror_output
from extpose.predictions import ClipPrediction, PredictionError, load_predictions, prediction_of
from extpose.schema import BodyName, Clip, Gender
from extpose.storage import Location
from pipelines.cutting import DETECTED_BOXES

FREE_PROTOCOL: dict[BodyName, str] = {"smpl": "free-body", "mano": "free-hand"}


@dataclass(frozen=True, kw_only=True)
class ShardScores:
    """What became of the clips of one shard."""

    predictions: dict[str, ClipPrediction] = field(default_factory=dict)
    scores: dict[str, list[ClipScores]] = field(default_factory=dict)
    """By protocol."""
    unlabelled: int = 0
    detectors: set[str] = field(default_factory=set)
    """What made the 2D evidence."""
    box_scales: set[float] = field(default_factory=set)
    """How many times its box the network's square is."""

    def add(self, other: "ShardScores") -> "ShardScores":
        """Both together."""
        names = {**self.scores, **other.scores}
        return ShardScores(
            predictions=self.predictions | other.predictions,
            scores={n: self.scores.get(n, []) + other.scores.get(n, []) for n in names},
            unlabelled=self.unlabelled + other.unlabelled,
            detectors=self.detectors | other.detectors,
            box_scales=self.box_scales | other.box_scales,
        )


class ShardScorer:
    """Network or predictions, bodies and protocols, loaded once."""

    def __init__(self, config: EvaluateConfig, network: Network | None = None) -> None:
        """`network` takes the place of a checkpoint.

        Raises ExtPoseError for files that are missing or do not fit each other.
        """
        self.config = config
        if (config.checkpoint is None and network is None) == (config.predictions is None):
            raise ExtPoseError(
                f"checkpoint is {config.checkpoint}, predictions is {config.predictions}: "
                "give one of the two"
            )
        self.given: Mapping[str, ClipPrediction] | None = None
        self.network: Network | None = None
        if config.predictions is not None:
            self.given, _ = load_predictions(config.predictions)
            joints = next(iter(self.given.values())).pose.shape[1]
            self.body: BodyName = "smpl" if joints > 15 else "mano"
        else:
            self.network = network or open_network(config)
            self.body = self.network.model.config.body
        self.protocols = find_protocols(config.protocol or (FREE_PROTOCOL[self.body],), self.body)
        self._bodies: dict[Gender, BodyModel] = {}
        self._readers: dict[tuple[str, Gender], JointReader] = {}

    def score(self, shard: Location, limit: int = 0) -> Iterator[ShardScores]:
        """Clip by clip; at most `limit` clips (0: all)."""
        index = ShardIndex([shard])
        for i in range(min(len(index), limit) if limit else len(index)):
            yield self.score_one(index.read_clip(i))
        index.close()

    def score_one(self, clip: Clip) -> ShardScores:
        """Predict and score one clip."""
        if clip.targets is None:
            return ShardScores(unlabelled=1)
        if clip.meta.body != self.body:
            raise ExtPoseError(
                f"{self.config.data}: {clip.key}: body is {clip.meta.body!r}, the predictions' is "
                f"{self.body!r}"
            )
        if self.config.evidence == "truth":
            clip = with_true_evidence(clip, self.config)
        found = self._predict(clip)
        output = found.posed(self.body_of("neutral"), is_right=clip.meta.is_right)
        scores = {p.name: [self._score(clip, found, output, p)] for p in self.protocols}
        return ShardScores(
            predictions={clip.key: found},
            scores=scores,
            detectors={clip.meta.detector},
            box_scales={measure_box_scale(clip)},
        )

    def _predict(self, clip: Clip) -> ClipPrediction:
        if self.network is not None:
            return prediction_of(join_motion([(clip, predict_clip(clip, self.network))], 0.0))
        assert self.given is not None
        if clip.key not in self.given:
            raise PredictionError(f"{self.config.predictions}: {clip.key}: is not in it")
        found = self.given[clip.key]
        if len(found.global_orient) != clip.num_frames:
            raise PredictionError(
                f"{self.config.predictions}: {clip.key}: {len(found.global_orient)} frames, the "
                f"data set has {clip.num_frames}"
            )
        return found

    def _score(
        self, clip: Clip, found: ClipPrediction, output: BodyOutput, protocol: Protocol
    ) -> ClipScores:
        assert clip.targets is not None
        if protocol.pck_normaliser == "box" and clip.meta.detector.endswith(DETECTED_BOXES):
            raise ExtPoseError(
                f"{clip.key}: protocol {protocol.name} measures by the labelled box, the shard has "
                f"the detector's ({clip.meta.detector})"
            )
        targets, is_left = clip.targets, clip.meta.is_right is False
        if is_left:
            # Joints are read off the right-hand model, so 3D is compared mirrored.
            output, targets = mirror_output(output), flip_targets(targets, body="mano")

        def to_pixels(points: torch.Tensor) -> torch.Tensor:
            points = mirror_points(points) if is_left else points
            return project(points, found.focal_length, clip.meta.image_size)

        posed = self.reader(protocol, "neutral").read(
            output,
            rotations=found.rotations(),
            project=to_pixels,
            is_still=self.config.static_camera,
        )
        gender = clip.meta.gender if protocol.gendered else "neutral"
        truth = read_truth(
            self.reader(protocol, gender),
            targets,
            bbox_xyxy=clip.bbox_xyxy,
            is_detected=clip.is_detected,
            is_still=self.config.static_camera,
        )
        return score_clip(
            protocol,
            posed,
            truth,
            key=clip.key,
            sequence=clip.meta.video_id,
            fps=clip.meta.fps,
        )

    def reader(self, protocol: Protocol, gender: Gender) -> JointReader:
        """What reads the protocol's joints off the body of a gender."""
        key = (protocol.name, gender)
        if key not in self._readers:
            files = {path.name: path for path in self.config.files}
            self._readers[key] = load_reader(protocol, self.body_of(gender), files=files)
        return self._readers[key]

    def body_of(self, gender: Gender) -> BodyModel:
        """The body of a gender; the neutral (or free) one where no file is given for it."""
        if gender not in self._bodies:
            self._bodies[gender] = open_body(self.config, self.body, gender)
        return self._bodies[gender]


def open_network(config: EvaluateConfig) -> Network:
    """The checkpoint and how it is run. Raises CheckpointError."""
    assert config.checkpoint is not None
    model = load_model(config.checkpoint).to(config.device).eval()
    return Network(
        model=model,
        body=open_body(config, model.config.body, "neutral"),
        device=config.device,
        modalities=config.modalities,
        batch=config.batch,
        window=config.window,
        stride=config.stride,
        flip_test=config.flip_test,
    )


def open_body(config: EvaluateConfig, body: BodyName, gender: Gender) -> BodyModel:
    """The body model of a gender, with the extra joints where their file is given."""
    files = {"neutral": config.body_model, "male": config.body_male, "female": config.body_female}
    path = files[gender]
    if path is None and config.body_model is not None and gender != "neutral":
        raise ExtPoseError(
            f"the labels are of the {gender} body, --body-{gender} gives no file for it"
        )
    extra = next((p for p in config.files if p.name.startswith("SMPL_to_J19")), None)
    return load_body_model(path, body, extra_regressor=extra if path is not None else None)


def find_protocols(names: tuple[str, ...], body: BodyName) -> list[Protocol]:
    """By name, each once. Raises ExtPoseError for one that is not known, or of another body."""
    for name in names:
        if name not in PROTOCOLS:
            raise ExtPoseError(f"unknown protocol {name!r}, known: {', '.join(PROTOCOLS)}")
        if PROTOCOLS[name].body != body:
            raise ExtPoseError(
                f"protocol {name} is of body {PROTOCOLS[name].body!r}, the predictions' is {body!r}"
            )
    return [PROTOCOLS[name] for name in dict.fromkeys(names)]


def with_true_evidence(clip: Clip, config: EvaluateConfig) -> Clip:
    """The clip with its labels in place of the detector's keypoints, drawn anew."""
    assert clip.targets is not None
    labels = clip.targets.keypoints_2d
    keypoints = labels if clip.meta.body == "mano" else labels[:, list(COCO17_OF_BODY44)]
    drawn = [
        redraw_skeleton(
            points,
            affine,
            keypoint_set=clip.meta.keypoint_set,
            crop_size=clip.meta.crop_size,
            skeleton_size=clip.meta.skeleton_size,
            config=config.skeleton,
        )
        for points, affine in zip(keypoints, clip.crop_to_img, strict=True)
    ]
    return replace(
        clip,
        meta=replace(clip.meta, detector="truth"),
        keypoints_2d=np.ascontiguousarray(keypoints),
        skeleton=tuple(encode_png(picture) for picture in drawn),
    )


def measure_box_scale(clip: Clip) -> float:
    """How many times its box, grown to 3:4, the network's square is (median, two digits)."""
    boxes = network_box(clip.bbox_xyxy, CropConfig(box_scale=1.0))
    sides = np.linalg.norm(clip.crop_to_img[:, :, 0], axis=-1) * clip.meta.skeleton_size
    return round(float(np.median(sides / boxes[:, 2])), 2)


def project(
    points_cam: Float[torch.Tensor, "t k 3"], focal_length: float, image_size: tuple[int, int]
) -> Float[torch.Tensor, "t k 2"]:
    """To source pixels, with the principal point at the image's centre."""
    height, width = image_size
    centre = points_cam.new_tensor([width / 2, height / 2])
    return points_cam[..., :2] / points_cam[..., 2:] * focal_length + centre

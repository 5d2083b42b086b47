"""Every knob, as frozen dataclasses. Standard library only.

Folders of videos and shards may lie in an S3-compatible store: `s3://bucket/prefix`.

The command line is derived from these classes (field docstrings become its help text), and every
run writes the resolved config into its folder. A field that has no effect is an error.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from extpose.engine_config import EngineConfig as EngineConfig
from extpose.engine_config import Trainable as Trainable
from extpose.model_config import ModelConfig as ModelConfig
from extpose.model_config import Scope as Scope
from extpose.objective_config import AdversaryConfig as AdversaryConfig
from extpose.objective_config import LossConfig as LossConfig
from extpose.storage import Location
from extpose.validation_config import ValidationConfig as ValidationConfig

DetectorName = Literal["movenet", "blazepose", "blazepose-full", "vitpose", "rtmpose", "keypoints"]
"""What finds people and their 2D keypoints; see docs/detectors.md."""


@dataclass(frozen=True, kw_only=True)
class SkeletonConfig:
    """How a 2D skeleton is drawn. Lengths are pixels of the network's crop, whatever its size.

    What a patch of 16 pixels sees of a bone is then the same at every size: on small crops, lines
    in proportion to the crop are too thin to be learned from (docs/log.md).
    """

    joint_radius: float = 3.0
    bone_width: float = 3.5
    min_confidence: float = 0.2
    """Keypoints below are not drawn; above, confidence is the opacity (paper, section 4.3)."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """From a person's box to the square that the network sees, and the one that is stored."""

    size: int = 256
    """Side of the network's crop in pixels (before the columns are cut to 3:4)."""
    box_scale: float = 1.2
    """The network's crop is a square of `box_scale` times the 3:4-expanded box's longer side."""
    margin: float = 1.5
    """The stored crop is this much wider than the network's: room for augmentation."""
    jpeg_quality: int = 92


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """People and their 2D keypoints in video frames."""

    box_threshold: float = 0.3
    """Least score of a person in a frame: of the box and of its keypoints together."""
    max_people: int = 10
    min_box_height: float = 0.08
    """Fraction of the image height; smaller people are filtered with reason `too_small`."""
    min_mean_confidence: float = 0.25
    """A track whose keypoints are on average less sure is filtered: `low_confidence`."""
    max_gap: int = 10
    """Frames without a detection that the tracker bridges."""
    min_track_frames: int = 8
    """Shorter tracks are filtered with reason `too_short`."""
    smooth_boxes: float = 2.0
    """Standard deviation, in frames, of the Gaussian that steadies boxes over time."""
    weights: Path | None = None
    """The detector's weights, where you bring them: ViTPose's folder, RTMPose's .onnx file."""
    keypoints: Path | None = None
    """Of detector `keypoints`: a file, or a folder with one for each video's name."""
    calibration: Path | None = None
    """Map from raw confidence to expected accuracy, as `extpose calibrate` writes it; `packaged`:
    MoveNet's, fitted on renders."""
    hands: Literal["mediapipe", "wholebody"] = "mediapipe"
    """Where hands come from: MediaPipe's network at each wrist, or the whole-body keypoints of
    `vitpose` or `rtmpose`."""
    min_hand_pixels: float = 24.0
    """Side of a hand's box; smaller hands are filtered with reason `too_small`."""
    batch: int = 16
    """People of one forward pass, where the detector can take several."""
    device: str = "cpu"
    """Where the detector runs: `cpu`, `cuda`, `cuda:1`."""
    threads: int = 1
    """Threads of the inference runtime, per detector process."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """The videos to read."""

    path: tuple[Location, ...]
    """Video files, or folders that are searched for them."""


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """`extpose preprocess`: videos to shards."""

    source: SourceConfig
    out: Location
    """Folder of the shards."""
    split: Literal["train", "val", "test"] = "train"
    detector: DetectorName = "movenet"
    """What finds people and their 2D keypoints."""
    body: Literal["smpl", "mano"] = "smpl"
    """Clips of whole people, or (`mano`) of the left and right hand of each."""
    unit_frames: int = 256
    """A work unit is at most this many frames of one video; one unit makes one shard."""
    clip_frames: int = 64
    """Frames of one clip at most."""
    num_detectors: int = 2
    """Detector processes."""
    max_detectors: int = 0
    """Where more, as many are started as the cluster has room for; 0: always `num_detectors`."""
    gpus_per_detector: float = 0.0
    """A fraction lets several detectors share one GPU."""
    num_hand_finders: int = 0
    """Processes that look for hands (`--body mano`); 0: as many as detectors. Only those with
    `--detect.hands wholebody` need a GPU, the detectors' share of one."""
    max_memory: float = 0.0
    """GiB for all processes on this machine together: fewer units are then under way at a time, and
    what cannot fit is refused before the start. 0: no limit."""
    frame_seconds: float = 120.0
    """A detector that is silent for longer on one frame, or on those that it takes at once, is
    killed and replaced."""
    tries: int = 3
    """A unit whose processes die this often is quarantined."""
    stall_seconds: float = 3600.0
    """The run stops, naming the open units, when none is finished for so long."""
    dry_run: bool = False
    """Only print the plan: what is there, what is missing, time and bytes. Writes nothing."""
    redo: bool = False
    """The folder was made with other settings: make again what they decide."""
    prune: bool = False
    """Delete shards of videos that are not among the given ones any more."""
    rehash: bool = False
    """Read every video, also those whose size and time of change are the known ones."""
    keep_detections: bool = True
    """Keep what the detector found (`detections/`, a hundredth of the shards' bytes): other crops,
    drawings, tracking or hands then need no second detection."""
    detect: DetectConfig = field(default_factory=DetectConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    skeleton: SkeletonConfig = field(default_factory=SkeletonConfig)


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """`extpose ingest`: a labelled data set, as downloaded, to shards."""

    out: Location
    """Folder of the shards."""
    root: Path = Path()
    """Folder of the data set as downloaded."""
    split: Literal["train", "val", "test"] = "test"
    units: tuple[str, ...] = ()
    """Only these sequences (or ranges of images); none: all."""
    evidence: Literal["source", "truth", "detector"] = "source"
    """The 2D keypoints to draw: those that come with the data set, the labels, or what the packaged
    detector finds in the labelled box."""
    detector: DetectorName = "movenet"
    """The detector of people; hands have their own."""
    boxes: Literal["source", "detector"] = "source"
    """The boxes to crop by: the labelled ones, or that of whom the packaged detector finds there
    (the labelled one where it finds nobody)."""
    clip_frames: int = 64
    """Frames of one clip at most."""
    workers: int = 2
    """Processes; 0: this one, without Ray."""
    redo: bool = False
    """The folder was made with other settings: make it again, unit by unit."""
    prune: bool = False
    """Delete shards of units that are not among the asked ones."""
    detect: DetectConfig = field(default_factory=DetectConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    skeleton: SkeletonConfig = field(default_factory=SkeletonConfig)


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """`extpose synth`: rendered clips of the free body or hand with exact truth."""

    out: Location
    """Folder of the shards."""
    body: Literal["body", "hand"] = "body"
    """Whole people, or single right and left hands."""
    num_clips: int = 64
    num_frames: int = 16
    """Frames of one clip."""
    image_size: tuple[int, int] = (360, 480)
    """Rendered height, width."""
    fps: float = 30.0
    seed: int = 0
    split: Literal["train", "val", "test"] = "train"
    """Also decides which motion clips are used: those of `val` and `test` are never in `train`."""
    keypoints: Literal["detector", "noise", "truth"] = "noise"
    """2D evidence: the real detector on the render, truth with a noise model, or plain truth."""
    noise: Path | None = None
    """Parameters of the noise model (`extpose fit-noise`); None: those of the packaged detector."""
    photographs: bool = True
    """Whether backgrounds are made of packaged photographs, or painted all."""
    vertices: bool = False
    """Whether shards also hold the vertices of each frame (160 kB a frame for a body)."""
    clips_per_shard: int = 16
    workers: int = 2
    redo: bool = False
    """The folder was made with other settings: make it again, shard by shard."""
    prune: bool = False
    """Delete shards beyond the asked ones."""
    crop: CropConfig = field(default_factory=CropConfig)
    skeleton: SkeletonConfig = field(default_factory=SkeletonConfig)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """One draw for all frames of a clip (4D-Humans' values)."""

    enabled: bool = True
    scale: float = 0.3
    rotation_deg: float = 30.0
    rotation_probability: float = 0.6
    translation: float = 0.02
    color: float = 0.2
    flip_probability: float = 0.5
    keypoint_noise: float = 0.0
    """Standard deviation of extra noise on the skeleton's points, fraction of the crop."""
    joint_dropout: float = 0.0
    """Probability that a joint of the skeleton is not drawn, for the whole clip."""
    extreme_crop_probability: float = 0.1
    """Of seeing only a part of the body that is visible: head, torso, legs ... (bodies only)."""
    occlusion_probability: float = 0.0
    """Of one to three boxes of a colour or of noise that drift over the pictures of a clip."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Shards to batches."""

    num_frames: int = 16
    stride: int = 1
    mask_rgb: float = 0.5
    """Probability that a clip's image is masked (a draw that masks both is repeated)."""
    mask_skeleton: float = 0.5
    max_damaged: float = 0.01
    """A clip that cannot be read is replaced by the next of its set and counted; training ends when
    more than this share of all clips is such, and more than one of several shards holds."""
    workers: int = 2
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    skeleton: SkeletonConfig = field(default_factory=SkeletonConfig)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """`extpose train`: shards to a checkpoint."""

    data: tuple[Location, ...] = (Path("data"),)
    """Folders of shards, one a data set."""
    mix: tuple[float, ...] = ()
    """Share of each data set in any unit (5 3 2). None: all clips of all folders are one set."""
    mocap: Path | None = None
    """Real poses (`extpose mocap`) for the adversarial term; None: there is none."""
    out: Path = Path("runs/train")
    init: Path | None = None
    """Start from the weights of this checkpoint."""
    body_model: Path | None = None
    """An SMPL or MANO file; None: the free body or hand, which only synthetic labels are of."""
    files: tuple[Path, ...] = ()
    """With an SMPL file: `SMPL_to_J19.pkl`, which finds the 19 keypoints of 44 that it lacks, and
    what the held-out protocol needs, such as `J_regressor_h36m.npy`."""
    steps: int = 50_000
    batch: int = 32
    """Clips of one optimiser step, over all workers."""
    seed: int = 0
    max_seconds: float = 0.0
    """Stop (with a checkpoint) after this many seconds of training; 0: no limit."""
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    log_every: int = 10
    validation: Location | None = None
    """Folder of labelled shards that are held out: metrics, and the best weights, in training."""
    validate_every: int = 1000
    """Steps from one validation to the next; the last step is always one."""
    validate_clips: int = 0
    """Held-out clips to look at; 0: all."""
    held_out: ValidationConfig = field(default_factory=ValidationConfig)
    wandb: str = ""
    """Project of Weights & Biases that the run is also logged to; needs the package `wandb`."""
    num_workers: int = 1
    """Training processes: Ray Train workers."""
    min_workers: int = 0
    """Go on with as few workers as this when the cluster has no room for `num_workers`, and take in
    those that join; 0: always `num_workers`. `batch` stays, so does the order of samples."""
    resize_seconds: float = 60.0
    """With `min_workers`: time from one look at the cluster for room to the next."""
    use_gpu: bool = False
    max_failures: int = 3
    """Worker failures without a new checkpoint between them after which the run is given up."""
    launcher: Literal["ray", "local"] = "ray"
    """`local`: one process, without Ray."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loader: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """`extpose evaluate`: metrics on labelled shards, by named protocols."""

    data: Location = Path()
    """Folder of labelled shards, or ..."""
    benchmark: str | None = None
    """... `pose2sim`: real footage of one man in four views, fetched at the first use, in boxes of
    the reference's joints; `pose2sim-detected`: in those that a detector finds."""
    checkpoint: Path | None = None
    """The network to run; none: the packaged one of the free body, or hand. Or ..."""
    predictions: Path | None = None
    """... predictions to score (the `predictions.npz` of an earlier run, or your own)."""
    protocol: tuple[str, ...] = ()
    """Names, such as `3dpw-14-wham`; several are printed side by side. None: that of the free body
    or hand."""
    out: Path = Path("runs/evaluate")
    body_model: Path | None = None
    """SMPL or MANO file of the predictions; None: the free body or hand."""
    body_male: Path | None = None
    """SMPL file of labels of male bodies."""
    body_female: Path | None = None
    files: tuple[Path, ...] = ()
    """Joint regressors that protocols need: `J_regressor_h36m.npy`, `SMPL_to_J19.pkl`."""
    modalities: Literal["both", "rgb", "skeleton"] = "both"
    evidence: Literal["shard", "truth"] = "shard"
    """The 2D keypoints to draw: the shard's, or the labels (the paper's rows with a dagger)."""
    window: int = 0
    """Frames that the network sees at once; 0: as many as it takes; 1: the image task."""
    stride: int = 0
    """Frames from one window to the next; 0: half a window."""
    flip_test: bool = False
    """Also predict the mirrored pictures, and average (bodies only)."""
    static_camera: bool = False
    """The data's camera stands still: foot sliding is measured."""
    batch: int = 4
    """Windows of one forward pass."""
    max_clips: int = 0
    """0: all."""
    workers: int = 0
    """Ray actors that share the shards; 0: this process, without Ray."""
    device: str = "cpu"
    bootstrap: int = 1000
    """Draws for the intervals."""
    pictures: int = 4
    """Worst and median clips that are drawn."""
    submission: Path | None = None
    """Folder of FreiHAND or HO3D: also write `pred.json`, which their servers read, for the
    pictures of its list."""
    skeleton: SkeletonConfig = field(default_factory=SkeletonConfig)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """`extpose predict`: a video to SMPL parameters, overlay and report."""

    checkpoint: Path | None = None
    """The network to run; none: the packaged one of `body`."""
    body: Literal["smpl", "mano"] = "smpl"
    """Whom the packaged network sees: whole people, or their hands."""
    out: Path = Path("runs/predict")
    body_model: Path | None = None
    modalities: Literal["both", "rgb", "skeleton"] = "both"
    focal_length: float = 0.0
    """Pixels; 0: HMR2.0's assumption, 5000 / 256 * max(height, width)."""
    batch: int = 4
    overlay: bool = True
    device: str = "cpu"
    detector: DetectorName = "movenet"
    """What finds people and their 2D keypoints."""
    detect: DetectConfig = field(default_factory=DetectConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    skeleton: SkeletonConfig = field(default_factory=SkeletonConfig)

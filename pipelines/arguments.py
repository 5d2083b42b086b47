"""What verbs take on the command line besides the configs of `extpose.config`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from extpose.config import ModelConfig, PredictConfig, TrainConfig
from extpose.storage import Location

T = TypeVar("T")
Flat = Annotated[T, tyro.conf.arg(name="")]
"""A config whose fields are options of their own, without a prefix."""


@dataclass(frozen=True)
class DemoArgs:
    """`extpose demo`."""

    out: Path = Path("demo")
    """Folder of everything that is made."""
    train_seconds: float = 60.0
    """How long the small network is trained."""
    num_clips: int = 256
    """Synthetic clips to train on."""


@dataclass(frozen=True)
class DoctorArgs:
    """`extpose doctor`."""

    fetch: bool = False
    """Also fetch the detector weights, motion clips and sample videos that are missing."""


@dataclass(frozen=True)
class MocapArgs:
    """`extpose mocap`."""

    out: Path
    """File to write (.npz): `body_pose` (n, 69) and `betas` (n, 10)."""
    root: Path | None = None
    """Folder of AMASS, as downloaded; or ..."""
    free: bool = False
    """... poses of the synthetic people of `extpose synth`, which need no licence."""
    fps: float = 10.0
    """Poses of AMASS taken a second: neighbours in time say the same."""
    num_poses: int = 20_000
    """Poses drawn with `free`."""


@dataclass(frozen=True)
class FitNoiseArgs:
    """`extpose fit-noise`."""

    out: Path = Path("noise.json")
    """File to write: parameters for `extpose synth --noise`."""
    work: Path = Path("runs/fit-noise")
    """Folder of the detector's findings, one file a clip."""
    num_clips: int = 160
    """Rendered clips to fit to."""
    num_held_out: int = 64
    """Clips of other motions, for the table."""
    num_frames: int = 16
    """Of each clip."""
    seed: int = 7
    real: bool = False
    """Also compare on real footage (three packaged videos; a minute or more)."""


@dataclass(frozen=True)
class CalibrateArgs:
    """`extpose calibrate`."""

    data: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of labelled clips with a detector's keypoints, to fit on."""
    out: Path
    """File to write (.json)."""
    check: tuple[Path, ...] = ()
    """Folders to report on besides; nothing is fitted on them."""
    origin: str = ""
    """A line that says what the clips are, kept in the file."""


@dataclass(frozen=True)
class InspectArgs:
    """`extpose inspect`."""

    shard: tyro.conf.Positional[tuple[Location, ...]]
    """Shards (.tar)."""
    out: Path = Path("inspect")
    """Folder for the contact sheets."""
    max_clips: int = 4
    """Clips drawn per shard."""


@dataclass(frozen=True)
class ValidateArgs:
    """`extpose validate`."""

    folder: tyro.conf.Positional[Location]
    """Folder of shards and their manifest."""
    workers: int = 0
    """Processes that share the shards; 0: this one."""
    strict: bool = False
    """Warnings count as faults."""


@dataclass(frozen=True)
class MultiviewArgs:
    """`extpose multiview`."""

    video: tyro.conf.Positional[tuple[Path, ...]]
    """One a camera: all named like the cameras, or none and in their order."""
    calibration: Path
    """Cameras: Pose2Sim's TOML, or JSON (docs/multiview.md)."""
    out: Path = Path("runs/multiview")
    offset: tuple[int, ...] = ()
    """For each video, as they are given, the frame at which all of them start; none: the first."""
    num_frames: int = 0
    """0: all that the videos have in common."""
    refine: bool = True
    """Move the cameras a little, so that the limbs agree in all views."""
    body: bool = True
    """Fit the free body to all views."""
    reference: Path | None = None
    """A file with `joints_world` to compare the first person with."""


@dataclass(frozen=True)
class ExplainArgs:
    """`extpose explain`."""

    what: tyro.conf.Positional[str]
    """A clip's key; a video's path, name or id; or a frame of it, `walk.mp4:120`."""
    data: Location
    """Folder of shards and their manifest."""


@dataclass(frozen=True, kw_only=True)
class DetectorFiles:
    """Where the files of a folder's detector are: a folder knows their content, not their place."""

    weights: Path | None = None
    """The detector's weights: ViTPose's folder, RTMPose's .onnx file."""
    keypoints: Path | None = None
    """Of detector `keypoints`: a file, or a folder with one for each video's name."""
    calibration: Path | None = None
    """Of calibrated confidences: the file, or `packaged`."""


@dataclass(frozen=True)
class RebuildArgs:
    """`extpose rebuild`."""

    key: tyro.conf.Positional[str]
    """A clip's key."""
    data: Location
    """Folder of shards and their manifest."""
    source: Location | None = None
    """The video, where it is not at its path any more."""
    detect: DetectorFiles = field(default_factory=DetectorFiles)


@dataclass(frozen=True)
class ReplayArgs:
    """`extpose replay`."""

    folder: tyro.conf.Positional[Path]
    """Of the saved unit."""
    stage: Literal["detect", "track", "hands", "pack", "all"] = "all"
    repeat: int = 1
    """Times that a stage is run; the shortest counts."""
    tolerance: float = 0.0
    """Largest difference of a number that is taken for none."""
    save_from: Path | None = None
    """A finished data set: save one of its units to the folder, instead of running."""
    unit: str = ""
    """Name of the unit to save, a shard's without `.tar`; none: the first."""
    detect: DetectorFiles = field(default_factory=DetectorFiles)


@dataclass(frozen=True)
class NoArgs:
    """A verb without options."""


@dataclass(frozen=True)
class PlanArgs:
    """`extpose plan`."""

    config: Flat[TrainConfig]
    cluster: str = "8xA100-80GB"
    """Number and kind of the GPUs, and their memory."""
    mfu: float = 0.35
    """Share of the GPUs' peak rate that the run is assumed to reach."""
    price: float = 2.0
    """Of one GPU for an hour, in your currency."""


@dataclass(frozen=True)
class PredictArgs:
    """`extpose predict`."""

    video: tyro.conf.Positional[tuple[Path, ...]]
    """Video files."""
    config: Flat[PredictConfig]


@dataclass(frozen=True)
class ExportArgs:
    """`extpose export`."""

    source: tyro.conf.Positional[Path]
    """Folder of a training run, or of one of its checkpoints."""
    out: tyro.conf.Positional[Path]
    """File to write."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """In which weights are stored; `fp16` is half the bytes."""


@dataclass(frozen=True)
class ConvertArgs:
    """`extpose convert`."""

    checkpoint: tyro.conf.Positional[Path]
    """Of HMR2.0, HaMeR, ViTPose or ExtPose."""
    out: tyro.conf.Positional[Path]
    """File to write."""
    to: Literal["extpose", "hmr2"] = "extpose"
    """Layout of the file; `hmr2` is also HaMeR's."""
    keep_discriminator: bool = False
    """Also its weights; otherwise they are left out."""
    model: ModelConfig = field(default_factory=lambda: ModelConfig(num_heads=0, head_num_heads=0))
    """Default: what the file says; 0 heads: those of the published network of the same width."""


@dataclass(frozen=True)
class Verb:
    """One word of the command line."""

    summary: str
    example: str
    run: Callable[[list[str], "Verb"], int]

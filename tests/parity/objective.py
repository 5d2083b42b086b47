"""Geometry, body, losses, discriminator and training steps against the reference's numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from extpose import geometry
from extpose.batch import Batch, Targets
from extpose.body_file import BodyArrays
from extpose.body_model import BodyModel
from extpose.config import AdversaryConfig, EngineConfig, LossConfig, TrainConfig
from extpose.geometry import crop_cam_to_transl, project_to_crop
from extpose.params import PoseParams, Prediction
from extpose.rotations import axis_angle_to_matrix, rot6d_to_matrix
from extpose.training.adversary import Adversary
from extpose.training.discriminator import Discriminator, generator_loss
from extpose.training.engine import create_engine
from extpose.training.loop import Progress, StepRecord, train
from extpose.training.losses import (
    compute_losses,
    sum_keypoints_2d,
    sum_keypoints_3d,
    sum_squares,
)
from extpose.training.mocap import Mocap
from tests.parity.network import batch_images, small_model
from tests.parity.rows import Row, compare, compare_relative, stored, to_tensor
from tests.reference_recipe import reference_state
from tests.test_body_model import SMPL_PARENTS, synthetic_body, synthetic_regressor

WEIGHTS = {
    "keypoints_3d": 0.05,
    "keypoints_2d": 0.01,
    "global_orient": 0.001,
    "body_pose": 0.001,
    "betas": 0.0005,
}
ADVERSARIAL = 0.0005
PELVIS = 39


def check_geometry() -> Iterator[Row]:
    """Rotations and cameras. Their 6D rotations of a batch of three are a fault: ours are right."""
    raw = stored("geometry")
    n = {key: to_tensor(value) for key, value in raw.items()}
    yield compare("axis-angle", axis_angle_to_matrix(n["aa"]), raw["aa_rotmat"])
    yield compare("quaternion", geometry.quaternion_to_matrix(n["quat"]), raw["quat_rotmat"])
    yield compare("6D", rot6d_to_matrix(n["rot6d"]), raw["rot6d_rotmat"])
    three = rot6d_to_matrix(n["rot6d_batch3"])
    orthogonal = np.broadcast_to(np.eye(3), (3, 3, 3))
    yield compare("6D of three: R R^T = 1", three @ three.mT, orthogonal)
    points = n["pts"] + n["trans"][:, None]
    yield compare_relative("projection", geometry.project(points, n["focal"]), raw["proj"])
    turned = torch.einsum("bij,bnj->bni", n["rot"], n["pts"]) + n["trans"][:, None]
    found = geometry.project(turned, n["focal"], n["center"])
    yield compare_relative("projection, turned, centred", found, raw["proj_full"])
    yield compare_relative("pred_cam_t", crop_cam_to_transl(n["cam"]), raw["pred_cam_t"])
    box = torch.cat([n["box_center"], n["box_size"][:, None]], 1)
    image_size = n["img_size"].flip(-1)
    for name, focal in (("cam_full", float(raw["scaled_focal"])), ("cam_full_f5000", 5000.0)):
        found = geometry.crop_cam_to_full(n["cam"], box, image_size, focal)
        yield compare_relative(name, found, raw[name])


def synthetic_body_model() -> BodyModel:
    """With both regressors, as HMR2.0 uses SMPL."""
    fields = synthetic_body()
    arrays = {name: fields[name] for name in ("v_template", "shapedirs", "posedirs", "weights")}
    return BodyModel(
        BodyArrays(
            **arrays,
            J_regressor=fields["J_regressor"],
            parents=tuple(SMPL_PARENTS),
            faces=fields["f"].astype(np.int64),
            coco_regressor=None,
            extra_regressor=synthetic_regressor(),
        )
    )


@torch.no_grad()
def check_body() -> Iterator[Row]:
    """Skinning with pose correctives, the joints, and the 44 keypoints by both ways."""
    raw, model = stored("smpl_synthetic_io"), synthetic_body_model()
    rotations, betas = to_tensor(raw["rotmats"]), to_tensor(raw["betas"])
    arguments = (rotations[:, 0], rotations[:, 1:], betas)
    out = model(*arguments)
    yield compare("vertices", out.vertices[:, raw["vertex_ids"]], raw["vertices"])
    yield compare("joints24", out.joints, raw["joints"])
    yield compare("keypoints44", out.keypoints, raw["joints44"])
    yield compare("keypoints44, without mesh", model.find_keypoints(*arguments), raw["joints44"])


def check_losses() -> Iterator[Row]:
    """Sums over the batch."""
    raw = stored("losses")
    n = {key: to_tensor(value) for key, value in raw.items()}
    yield compare_relative("keypoints_2d", sum_keypoints_2d(n["p2"], n["g2"]), raw["kp2_l1"])
    for pelvis in (0, PELVIS):
        found = sum_keypoints_3d(n["p3"], n["g3"], root=(pelvis,))
        expected = raw[f"kp3_l1_pelvis{pelvis}"]
        yield compare_relative(f"keypoints_3d, pelvis {pelvis}", found, expected)
    # Their labels are fractions here, ours are yes or no: row by row.
    pairs = zip(n["pp"], n["gp"], strict=True)
    sums = torch.stack([sum_squares(a, b, torch.tensor(True)) for a, b in pairs])
    yield compare_relative("parameters", (n["has"] * sums).sum(), raw["param"])


@dataclass(frozen=True, kw_only=True)
class Step:
    """One training step of the reference, with this project's parts."""

    losses: dict[str, Tensor]
    total: Tensor
    """What the generator is trained on, adversarial term included."""
    keypoints: Tensor
    prediction: Prediction


class Trainer:
    """The stored batch, the small network, the synthetic body and the discriminator."""

    def __init__(self) -> None:
        self.raw = stored("hmr2_batch")
        self.n = {k: to_tensor(v) for k, v in self.raw.items() if v.dtype.kind == "f"}
        self.model, self.body = small_model().train(), synthetic_body_model()
        self.critic = Discriminator("smpl")
        own = {f"discriminator.{key}": v for key, v in self.critic.state_dict().items()}
        state = reference_state(own)
        self.critic.load_state_dict({k.split(".", 1)[1]: v for k, v in state.items()})
        self.images = batch_images()[:, None]

    def run(self) -> Step:
        """Forward, and all losses of the generator."""
        n, prediction = self.n, self.model(self.images)
        orient = prediction.params.global_orient[:, 0]
        pose, betas = prediction.params.pose[:, 0], prediction.params.betas
        keypoints = self.body.find_keypoints(orient, pose, betas)
        flat = project_to_crop(keypoints, prediction.crop_cam[:, 0])
        true = {
            name: axis_angle_to_matrix(rearrange(n[f"in_{name}"], "b (j c) -> b j c", c=3))
            for name in ("global_orient", "body_pose")
        }
        has = {name: n[f"in_has_{name}"] > 0 for name in (*true, "betas")}
        losses = {
            "keypoints_2d": sum_keypoints_2d(flat, n["in_keypoints_2d"]),
            "keypoints_3d": sum_keypoints_3d(keypoints, n["in_keypoints_3d"], root=(PELVIS,)),
            "global_orient": sum_squares(
                orient[:, None], true["global_orient"], has["global_orient"]
            ),
            "body_pose": sum_squares(pose, true["body_pose"], has["body_pose"]),
            "betas": sum_squares(betas, n["in_betas"], has["betas"]),
        }
        losses["loss"] = torch.stack([w * losses[name] for name, w in WEIGHTS.items()]).sum()
        losses["gen"] = generator_loss(self.critic(pose, betas))
        total = losses["loss"] + ADVERSARIAL * losses["gen"]
        return Step(losses=losses, total=total, keypoints=keypoints, prediction=prediction)

    def batch(self) -> Batch:
        """The stored labels, as the loader gives them."""
        n, points = self.n, self.n["in_keypoints_2d"]
        b, images = len(points), self.images
        rotations = {
            name: axis_angle_to_matrix(rearrange(n[f"in_{name}"], "b (j c) -> b 1 j c", c=3))
            for name in ("global_orient", "body_pose")
        }
        assert torch.equal(n["in_has_global_orient"], n["in_has_body_pose"])
        return Batch(
            keys=tuple("abc"),
            rgb=images,
            skeleton=images,
            valid=torch.ones(b, 1, dtype=torch.bool),
            crop_box_img=torch.ones(b, 1, 3),
            keypoints_crop=torch.zeros(b, 1, 17, 3),
            image_size=torch.ones(b, 2),
            targets=Targets(
                params=PoseParams(
                    global_orient=rotations["global_orient"][:, :, 0],
                    pose=rotations["body_pose"],
                    betas=n["in_betas"],
                ),
                has_pose=n["in_has_body_pose"][:, None] > 0,
                has_betas=n["in_has_betas"] > 0,
                keypoints_2d=points[:, None],
                keypoints_3d=n["in_keypoints_3d"][:, None],
                transl=torch.zeros(b, 1, 3),
            ),
        )

    def mocap(self) -> Mocap:
        """The six stored real poses: as many as a step takes, so each step takes all."""
        pose = rearrange(self.raw["in_mocap_pose"], "n (j c) -> n j c", c=3)
        return Mocap(pose=pose, betas=self.raw["in_mocap_betas"])


def check_objective() -> Iterator[Row]:
    """The whole objective on the stored batch, and its gradient for every parameter."""
    trainer = Trainer()
    raw, step = trainer.raw, trainer.run()
    yield compare("keypoints44", step.keypoints, raw["out_pred_keypoints_3d"])
    flat = project_to_crop(step.keypoints, step.prediction.crop_cam[:, 0])
    yield compare("keypoints44 in the crop", flat, raw["out_pred_keypoints_2d"])
    for name in WEIGHTS:
        yield compare_relative(name, step.losses[name], raw[f"loss.loss_{name}"])
    yield compare_relative("loss", step.losses["loss"], raw["loss.loss"])
    yield compare_relative("adversarial", step.losses["gen"], raw["loss.adv"])
    yield compare_relative("loss with adversarial", step.total, raw["loss.total_with_adv"])
    step.total.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
    norms = [gradients[str(key)].norm() for key in raw["gradnorm_keys"]]
    found, expected = torch.stack(norms).numpy(), raw["gradnorms"]
    # Key by key; a parameter behind the zero token has no gradient.
    gaps = np.abs(found - expected) / np.where(expected > 0, expected, 1)
    item = f"gradient norms of {len(gaps)} parameters"
    yield Row(item=item, difference=float(gaps.max()), tolerance=1e-5, is_relative=True)


class ImageOnly(nn.Module):
    """The network without its second stream."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor, _skeleton: Tensor, valid: Tensor) -> Prediction:
        """Of the images."""
        return self.model(rgb, None, valid)


def train_three_steps(trainer: Trainer) -> list[StepRecord]:
    """With the loop, engine, objective and adversary that `extpose train` uses."""
    trainer.model.temporal_embed = None
    config = TrainConfig(
        steps=3,
        batch=3,
        engine=EngineConfig(backend="plain", lr=1e-3, weight_decay=1e-4, micro_batch=3),
        adversary=AdversaryConfig(lr=1e-3, weight_decay=1e-4),
        loss=LossConfig(clips_per_sum=3),
    )
    engine = create_engine(
        ImageOnly(trainer.model), config.engine, accumulation=1, micro_batch=3, use_gpu=False
    )
    adversary = Adversary(
        config.adversary,
        trainer.mocap(),
        body="smpl",
        weight=config.loss.adversarial,
        batch=config.batch,
        seed=config.seed,
        workers=engine.workers,
    )
    adversary.discriminator.load_state_dict(trainer.critic.state_dict())
    records: list[StepRecord] = []
    train(
        config,
        engine,
        [trainer.batch()] * config.steps,
        partial(objective, trainer.body, config.loss),
        start=Progress(step=0, seconds=0.0),
        report=records.append,
        save=lambda _progress: None,
        adversary=adversary,
    )
    return records


def objective(
    body: BodyModel, config: LossConfig, prediction: Prediction, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the network is trained on, without the adversarial term."""
    return compute_losses(prediction, batch, body, config)


def check_training() -> Iterator[Row]:
    """Three steps of AdamW for both, generator first; the losses before each."""
    trainer = Trainer()
    names = [str(name).removeprefix("loss_") for name in trainer.raw["steps_losses_names"]]
    weights = {**WEIGHTS, "gen": ADVERSARIAL, "disc": 1.0, "loss": 1.0}
    records = train_three_steps(trainer)
    for i, (record, expected) in enumerate(zip(records, trainer.raw["steps_losses"], strict=True)):
        terms = record.terms
        found = {
            **terms,
            "loss": record.loss - terms["adversarial"],
            "body_pose": terms["pose"],
            "gen": terms["adversarial"],
            "disc": terms["discriminator"],
        }
        values = np.array([found[name] / weights[name] for name in names])
        yield Row(
            item=f"step {i}: {len(names)} losses",
            difference=float((np.abs(values - expected) / np.abs(expected)).max()),
            tolerance=1e-6 if i == 0 else 1e-5,
            is_relative=True,
        )

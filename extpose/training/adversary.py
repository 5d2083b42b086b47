"""The adversarial term: a discriminator of poses and shapes, with an optimiser of its own.

In each step the generator (the network) is told how far its poses are from looking real; after its
update the discriminator learns to tell the poses of that same forward pass from real ones. It is
small, so every worker holds all of it, in fp32, whatever engine the network runs on; its gradients
are averaged over the workers.

A clip counts once, whatever its number of frames, and padding does not. Real poses are gone
through in shuffled epochs; a step takes those at the places (step * batch + clip) * frames * 2 on,
so which ones they are is a function of (seed, step, global batch), not of the number of workers.

Axes    b clips   t frames   j joint rotations without the root   n rows: frames, or real poses
Source  4D-Humans' and HaMeR's training step (two real poses a prediction, summed LSGAN losses)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import functional_call

from extpose.batch import Batch
from extpose.config import AdversaryConfig
from extpose.data.sampler import EpochOrder
from extpose.errors import CheckpointError, TrainingError
from extpose.model.foreign import read_checkpoint
from extpose.params import Prediction
from extpose.rotations import axis_angle_to_matrix
from extpose.schema import BodyName
from extpose.training.discriminator import (
    Discriminator,
    discriminator_loss,
    generator_loss,
    load_discriminator,
)
from extpose.training.mocap import Mocap
from extpose.training.workers import Workers

REAL_PER_FRAME = 2
"""Real poses drawn a predicted one (the reference's NUM_TRAIN_SAMPLES)."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Poses that were judged in a step, how much each counts, and the clips that they are of."""

    keys: tuple[str, ...]
    pose: Float[Tensor, "n j 3 3"]
    betas: Float[Tensor, "n 10"]
    weights: Float[Tensor, " n"]


class Adversary:
    """Discriminator, optimiser and real poses of one run; all methods are collective.

    Call `term` with every micro-batch of a step, then `step` once. `batch` is the number of clips
    of a step over all workers, `weight` the term's in the objective.
    """

    def __init__(
        self,
        config: AdversaryConfig,
        mocap: Mocap,
        *,
        body: BodyName,
        weight: float,
        batch: int,
        seed: int,
        workers: Workers,
    ) -> None:
        self.config, self.mocap, self.workers = config, mocap, workers
        self.weight, self.batch = weight, batch
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.discriminator = Discriminator(body)
        if config.init is not None:
            load_discriminator(self.discriminator, read_checkpoint(config.init))
        self.discriminator.to(workers.device)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.order = EpochOrder(len(mocap.pose), seed, purpose="mocap")
        self._judged: list[_Rows] = []

    def term(self, prediction: Prediction, batch: Batch) -> Float[Tensor, ""]:
        """The generator's, with its weight; remembers the poses for `step`."""
        params, valid = prediction.params, batch.valid
        rows = _Rows(
            keys=batch.keys,
            pose=rearrange(params.pose.float(), "b t j row column -> (b t) j row column"),
            betas=repeat(params.betas.float(), "b c -> (b t) c", t=valid.shape[1]),
            weights=frame_weights(valid),
        )
        self._judged.append(replace(rows, pose=rows.pose.detach(), betas=rows.betas.detach()))
        # Constants here: what the network's loss tells the discriminator is not to be learned.
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        scores: Tensor = functional_call(self.discriminator, fixed, (rows.pose, rows.betas))
        return self.weight * generator_loss(scores, rows.weights)

    def step(self, step: int) -> float:
        """Update the discriminator; returns its loss before, without weight, over all workers.

        Raises TrainingError, on every worker, for a loss that is not finite.
        """
        judged, self._judged = self._judged, []
        clips = self.batch // self.workers.size
        frames = sum(len(rows.pose) for rows in judged) // clips
        pose, betas = self.real_poses(step, clips=clips, frames=frames)
        fake = self.discriminator(
            torch.cat([r.pose for r in judged]), torch.cat([r.betas for r in judged])
        )
        loss = discriminator_loss(
            fake,
            self.discriminator(pose, betas),
            torch.cat([r.weights for r in judged]) / len(judged),
            real_weight=self.config.real_weight,
        )
        self.optimizer.zero_grad(set_to_none=True)
        (self.weight * loss).backward()
        mean = float(self.workers.mean(loss.detach()[None])[0])
        if not math.isfinite(mean):
            named = self.workers.gather([key for rows in judged for key in rows.keys])
            raise TrainingError(
                f"step {step + 1}: the discriminator's loss is not finite ({mean}); clips: "
                f"{', '.join(sorted({key for keys in named for key in keys}))}"
            )
        self.workers.average_gradients(list(self.discriminator.parameters()))
        self.optimizer.step()
        return mean

    def real_poses(
        self, step: int, *, clips: int, frames: int
    ) -> tuple[Float[Tensor, "n j 3 3"], Float[Tensor, "n 10"]]:
        """This worker's real poses of a step, as rotation matrices, and their shapes."""
        count = clips * frames * REAL_PER_FRAME
        first = (step * self.workers.size + self.workers.rank) * count
        rows = [self.order(first + i)[1] for i in range(count)]
        device = self.workers.device
        pose = torch.from_numpy(self.mocap.pose[rows]).to(device)
        return axis_angle_to_matrix(pose), torch.from_numpy(self.mocap.betas[rows]).to(device)

    def state(self) -> dict[str, Tensor]:
        """Weights and optimiser on the CPU, by name: all that a checkpoint needs."""
        state = {"mocap": _to_tensor(self.mocap.fingerprint())}
        for name, parameter in self.discriminator.named_parameters():
            state[f"weights/{name}"] = parameter.detach().to("cpu", copy=True)
            own = self.optimizer.state.get(parameter, {})
            state |= {f"{key}/{name}": own[key].to("cpu", copy=True) for key in MOMENTS if own}
        return state

    def load_state(self, state: Mapping[str, Tensor], where: object) -> None:
        """Take what `state` gave; `where` is its place, for messages.

        Raises CheckpointError for a state of another body, or with other real poses.
        """
        stored, own = state.get("mocap"), _to_tensor(self.mocap.fingerprint())
        if stored is None or not torch.equal(stored, own):
            raise CheckpointError(f"{where}: its real poses are not those of this run's mocap file")
        self.optimizer.state.clear()
        try:
            for name, parameter in self.discriminator.named_parameters():
                parameter.data.copy_(state[f"weights/{name}"])
                moments = {key: state.get(f"{key}/{name}") for key in MOMENTS}
                kept = {key: value for key, value in moments.items() if value is not None}
                if kept:
                    # AdamW keeps its count of steps on the CPU.
                    self.optimizer.state[parameter] = {
                        key: value.clone() if key == "step" else value.to(parameter, copy=True)
                        for key, value in kept.items()
                    }
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"{where}: the discriminator: {error}") from error


def frame_weights(valid: Bool[Tensor, "b t"]) -> Float[Tensor, " n"]:
    """Each clip counts the same, padding nothing; they add up to 1."""
    weights = valid / valid.sum(1, keepdim=True).clamp_min(1) / len(valid)
    return rearrange(weights, "b t -> (b t)")


def _to_tensor(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)

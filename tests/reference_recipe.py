"""Arrays that are a function of their name: the numbers in `tests/data/hmr2_small.npz` are what
HMR2.0's published code (4D-Humans, commit 6ec7965, fp32) computes with these weights and images.
"""

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 in [-1, 1) from a frozen stream that is seeded by the name."""
    stream = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    return (stream.random_sample(shape) * 2.0 - 1.0).astype(np.float32)


def parameter(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of one learnable tensor, by its checkpoint name."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf in ("pos_embed", "pos_embedding"):
        return np.float32(0.5) * uniform(key, shape)
    if len(shape) == 1:
        if leaf == "weight":
            return np.float32(1.0) + np.float32(0.2) * uniform(key, shape)
        return np.float32(0.1) * uniform(key, shape)
    gain = 0.3 if ".dec" in key else 1.0
    return np.float32(gain * np.sqrt(3.0 / int(np.prod(shape[1:])))) * uniform(key, shape)


def mean_parameters(tag: str, num_rotations: int) -> dict[str, np.ndarray]:
    """Stand-ins for the mean pose, shape and camera."""
    eye = np.tile(np.array([1, 0, 0, 0, 1, 0], np.float32), num_rotations)
    camera = np.array([0.9, 0, 0], np.float32)
    return {
        "pose": eye + np.float32(0.15) * uniform(f"{tag}.pose", (6 * num_rotations,)),
        "betas": np.float32(0.3) * uniform(f"{tag}.shape", (10,)),
        "cam": camera + np.float32(0.05) * uniform(f"{tag}.cam", (3,)),
    }


def reference_state(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reference's value for every backbone, head and discriminator key of `own`."""
    body, hand = mean_parameters("smpl_mean", 24), mean_parameters("mano_mean", 16)
    mean = hand if any(key.startswith("mano_head.") for key in own) else body
    buffers = {
        "init_body_pose": body["pose"],
        "init_hand_pose": hand["pose"],
        "init_betas": mean["betas"],
        "init_cam": mean["cam"],
    }
    state = {}
    for key, value in own.items():
        leaf = key.rsplit(".", 1)[-1]
        if leaf in buffers:
            array = buffers[leaf][None]
        elif key == "temporal_embed":
            continue
        else:
            array = parameter(key, tuple(value.shape))
        state[key] = torch.from_numpy(array.astype(np.float32))
    return state

"""The README's picture: frames of one rendered clip, the skeleton beside each, the predicted mesh.

PYTHONPATH=. python docs/teaser.py demo/held-out extpose/free/body.safetensors docs/teaser.jpg
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from extpose.body_model import load_body_model
from extpose.data.clip import decode_image
from extpose.data.loader import find_shards
from extpose.data.shards import read_shard
from extpose.inference import Network, predict_clip
from extpose.model.weights import load_model
from extpose.motion import join_motion
from extpose.schema import Clip
from extpose.visualize import overlay_mesh

CELL = 224
NUM_FRAMES = 5


def draw_clip(clip: Clip, network: Network) -> np.ndarray:
    """Three rows: crop, skeleton, the mesh on the crop; columns are frames. RGB."""
    motion = join_motion([(clip, predict_clip(clip, network))], 0.0)
    vertices = motion.posed(network.body).vertices.numpy()
    border = (clip.meta.crop_size - clip.meta.skeleton_size) // 2
    inner = slice(border, border + clip.meta.skeleton_size)
    columns = []
    for frame in np.linspace(0, clip.num_frames - 1, NUM_FRAMES).astype(int):
        crop = decode_image(clip.rgb[frame])
        img_to_crop = np.linalg.inv(np.vstack([clip.crop_to_img[frame], [0, 0, 1]]))
        K = img_to_crop @ motion.intrinsics
        drawn = overlay_mesh(crop, [vertices[frame]], network.body.faces.numpy(), K=K)
        rows = [crop[inner, inner], decode_image(clip.skeleton[frame]), drawn[inner, inner]]
        columns.append(np.vstack([cv2.resize(row, (CELL, CELL)) for row in rows]))
    return np.hstack(columns)


def main(data: str, checkpoint: str, out: str) -> None:
    """Draw the first clip."""
    network = Network(model=load_model(Path(checkpoint)).eval(), body=load_body_model())
    clip = next(read_shard(find_shards(Path(data))[0]))
    cv2.imwrite(out, cv2.cvtColor(draw_clip(clip, network), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main(*sys.argv[1:])

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from extpose.data.clip import decode_image, encode_jpeg, encode_png
from extpose.data.shards import write_shard
from pipelines.inspect import inspect_shards
from pipelines.validate import find_faults, validate
from tests.clips import SKELETON, random_clip


def good_clip(seed: int):
    """A random clip whose undetected frames have no confidence, as the contract wants."""
    clip = random_clip(seed, 3)
    return replace(clip, is_detected=np.ones(3, bool))


def write_folder(folder: Path, *shards) -> Path:
    folder.mkdir(exist_ok=True)
    infos = [write_shard(folder / f"{i}.tar", clips) for i, clips in enumerate(shards)]
    entries = [
        {
            "name": Path(info.path).name,
            "sha256": info.sha256,
            "clips": info.num_clips,
            "frames": info.num_frames,
        }
        for info in infos
    ]
    manifest = {"shards": entries, "settings": {"skeleton": asdict(SKELETON)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_good_folder_has_no_faults(tmp_path):
    folder = write_folder(tmp_path, [good_clip(0), good_clip(1)], [good_clip(2)])
    assert list(find_faults(folder)) == []
    assert validate(folder) == 0


def change(name, clip):
    black = np.zeros((64, 64, 3), np.uint8)
    shifted = clip.crop_to_img + np.float32([[0, 0, 9], [0, 0, 0]])
    rgb = clip.rgb[1:]
    changed = {
        "000.skeleton.png: is not the drawing": {
            "skeleton": (encode_png(255 - decode_image(clip.skeleton[0])), *clip.skeleton[1:])
        },
        "000.jpg: shape": {"rgb": (encode_jpeg(black, 90), *rgb)},
        "000.jpg: 3 bytes that are no": {"rgb": (b"abc", *rgb)},
        "bbox_xyxy: needs": {"bbox_xyxy": clip.bbox_xyxy[:, [2, 1, 0, 3]]},
        "bbox_xyxy: outside the image": {"bbox_xyxy": clip.bbox_xyxy + 1000},
        "timestamps: do not rise": {"timestamps": clip.timestamps[::-1].copy()},
        "crop_to_img: frame 0": {"crop_to_img": shifted},
        "keypoints_2d: confidence in frames": {"is_detected": np.zeros(3, bool)},
    }
    return replace(clip, **changed[name])


@pytest.mark.parametrize(
    "fault",
    [
        "000.skeleton.png: is not the drawing",
        "000.jpg: shape",
        "000.jpg: 3 bytes that are no",
        "bbox_xyxy: needs",
        "bbox_xyxy: outside the image",
        "timestamps: do not rise",
        "crop_to_img: frame 0",
        "keypoints_2d: confidence in frames",
    ],
)
def test_faults_of_a_clip_name_file_key_and_field(tmp_path, fault):
    folder = write_folder(tmp_path, [good_clip(0), change(fault, good_clip(1))])
    faults = list(find_faults(folder))
    assert any(f"0.tar: noise-1_3_000010: {fault}" in found for found in faults), faults
    assert not any("noise-0" in found for found in faults)
    assert validate(folder) == 1


def test_faults_of_the_folder(tmp_path):
    folder = write_folder(tmp_path, [good_clip(0)], [good_clip(1)], [good_clip(2)])
    (folder / "1.tar").unlink()
    data = bytearray((folder / "2.tar").read_bytes())
    data[3000] ^= 255
    (folder / "2.tar").write_bytes(data)
    write_shard(folder / "3.tar", [good_clip(0)])
    faults = "\n".join(find_faults(folder))
    assert "1.tar: in manifest.json, but not there" in faults
    assert "2.tar: sha256 is" in faults
    assert "3.tar: not in manifest.json" in faults
    assert "3.tar: noise-0_3_000010: key is also in" in faults
    (folder / "2.tar").write_bytes(data[:4000])
    assert "2.tar" in "\n".join(find_faults(folder))
    (folder / "manifest.json").write_text("{")
    assert "not a readable manifest" in "\n".join(find_faults(folder))
    assert "no shards" in "\n".join(find_faults(tmp_path / "none"))


def test_inspect_draws_spread_clips(tmp_path):
    shard = tmp_path / "a.tar"
    write_shard(shard, [good_clip(seed) for seed in range(5)])
    pictures = inspect_shards([shard], tmp_path / "sheets", max_clips=3)
    assert [path.name for path in pictures] == [f"noise-{i}_3_000010.png" for i in (0, 2, 4)]
    assert decode_image(pictures[0].read_bytes()).max() > 0

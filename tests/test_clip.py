from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose.data.clip import (
    ClipOrigin,
    decode_image,
    encode_jpeg,
    encode_png,
    make_clip,
    make_video_id,
    redraw_skeleton,
    split_track,
)
from extpose.data.codec import decode_clip, encode_clip
from extpose.data.crop import apply_affine
from tests.clips import CROP, SKELETON, random_clip, random_frames, random_track


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from(["smpl", "mano"]))
def test_redraw_from_a_decoded_clip_equals_the_stored_picture(seed, body):
    clip = random_clip(seed, 3, body=body)
    back = decode_clip(encode_clip(clip), clip.key)
    for frame in range(back.num_frames):
        drawn = redraw_skeleton(
            back.keypoints_2d[frame],
            back.crop_to_img[frame],
            keypoint_set=back.meta.keypoint_set,
            crop_size=back.meta.crop_size,
            skeleton_size=back.meta.skeleton_size,
            config=SKELETON,
        )
        np.testing.assert_array_equal(drawn, decode_image(back.skeleton[frame]))
        assert drawn.any()


def test_crop_to_img_says_where_the_pixels_come_from():
    track = random_track(0, 1)
    clip = random_clip(0, 1)
    [frame] = random_frames(0, 1)
    crop = decode_image(clip.rgb[0])
    assert crop.shape == (96, 96, 3)
    centre = apply_affine(np.array([48.0, 48.0]), clip.crop_to_img[0])
    np.testing.assert_allclose(centre, (track.bbox_xyxy[0, :2] + track.bbox_xyxy[0, 2:]) / 2, 1e-3)
    assert frame.shape == (120, 160, 3)


def test_the_same_input_gives_the_same_bytes():
    assert encode_clip(random_clip(4)) == encode_clip(random_clip(4))


def test_pictures_are_rgb_for_every_viewer():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_array_equal(decode_image(encode_png(red)), red)
    assert np.abs(decode_image(encode_jpeg(red, 95)).astype(int) - red).max() < 8
    with pytest.raises(ValueError, match="no JPEG or PNG"):
        decode_image(b"nothing")


@given(st.integers(1, 300), st.integers(1, 64))
def test_split_covers_the_track_evenly(num_frames, max_frames):
    track = random_track(0, num_frames)
    pieces = split_track(track, max_frames)
    lengths = [piece.num_frames for piece in pieces]
    assert sum(lengths) == num_frames
    assert len(pieces) == -(-num_frames // max_frames)
    assert max(lengths) - min(lengths) <= 1
    starts = [piece.first_frame - track.first_frame for piece in pieces]
    assert starts == [sum(lengths[:i]) for i in range(len(lengths))]
    np.testing.assert_array_equal(
        np.concatenate([piece.keypoints_2d for piece in pieces]), track.keypoints_2d
    )


def test_video_ids_are_key_characters_and_depend_on_the_content():
    assert make_video_id("My clip (1).final", "ab" * 32) == "My-clip-1-final-ababababab"
    assert make_video_id("видео", "0" * 64) == "video-0000000000"
    assert make_video_id("a", "1" * 64) != make_video_id("a", "2" * 64)


def test_wrong_frames_are_refused():
    clip = random_clip(0, 2)
    origin = ClipOrigin(
        **{name: getattr(clip.meta, name) for name in ClipOrigin.__dataclass_fields__}
    )
    track = random_track(0, 3)

    def build(frames, origin=origin):
        return make_clip(frames, track, origin=origin, crop=CROP, skeleton=SKELETON)

    with pytest.raises(ValueError, match="2 frames given, 3 needed"):
        build(random_frames(0, 2))
    with pytest.raises(ValueError, match="one more"):
        build(random_frames(0, 4))
    with pytest.raises(ValueError, match=r"size \(120, 160\), expected \(100, 160\)"):
        build(random_frames(0, 3), replace(origin, image_size=(100, 160)))

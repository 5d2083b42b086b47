from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extpose import video
from extpose.video import VideoInfo, read_frames
from extpose.video_index import VideoIndex, scan
from pipelines.plan import cut_video
from tests.test_video import write_video

INFO = VideoInfo(path="a.mp4", height=48, width=64, fps=25.0, num_frames=40, codec="h264")


@given(times=st.none() | st.sets(st.integers(-(2**62), 2**62)), keys=st.sets(st.integers(0, 2**40)))
def test_text_holds_everything(times, keys):
    index = VideoIndex(
        info=INFO,
        is_cut=False,
        first=3,
        times=None if times is None else np.array(sorted(times), np.int64),
        keyframes=np.array(sorted(keys), np.int64),
    )
    again = VideoIndex.from_text(index.to_text(), Path("a.mp4"))
    assert (again.info, again.is_cut, again.first) == (INFO, False, 3)
    np.testing.assert_array_equal(again.keyframes, index.keyframes)
    assert (again.times is None) == (times is None)
    if times is not None:
        np.testing.assert_array_equal(again.times, index.times)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_with_an_index_nothing_is_read_twice(tmp_path, suffix, monkeypatch):
    path = write_video(tmp_path / f"a{suffix}", 40)
    whole, index = list(read_frames(path)), scan(path)
    if suffix != ".avi":
        first, second, *_ = index.keyframes.tolist()
        assert (first, index.skip_before(second - 1)) == (0, second - 1)
        assert index.skip_before(second) == 0
    assert len(index.to_text()) < 400
    monkeypatch.setattr(video, "scan", None)
    for start, stop in ((0, 7), (7, 30), (30, 40)):
        part = VideoIndex.from_text(index.part(start, stop).to_text(), path)
        skipped = []
        frames = list(read_frames(path, start, stop, index=part, on_skip=skipped.append))
        assert [f.index for f in frames] == list(range(start, stop))
        assert len(skipped) == index.skip_before(start)
        for frame in frames:
            assert frame.timestamp == whole[frame.index].timestamp
            np.testing.assert_array_equal(frame.rgb, whole[frame.index].rgb)


@settings(max_examples=25)
@given(num=st.integers(1, 60_000), unit=st.integers(100, 3000), gap=st.integers(1, 60_000))
def test_units_are_alike_unless_many_frames_would_be_decoded_for_nothing(num, unit, gap):
    info = VideoInfo(**vars(INFO) | {"num_frames": num})
    keys = np.arange(0, num, gap)
    index = VideoIndex(info=info, is_cut=False, first=0, times=None, keyframes=keys)
    cuts = cut_video(index, unit)
    assert (cuts[0], cuts[-1]) == (0, num)
    sizes = np.diff(cuts)
    assert sizes.min() >= 1
    for start, stop in pairwise(cuts):
        assert index.skip_before(start) <= max(stop - start, 1024)
    if gap <= 1024:
        assert sizes.max() <= unit
        assert np.ptp(sizes) <= 1


def test_a_video_that_cannot_be_sought_is_halved():
    info = VideoInfo(**vars(INFO) | {"num_frames": 90_000})
    start = np.zeros(1, np.int64)
    index = VideoIndex(info=info, is_cut=False, first=0, times=None, keyframes=start)
    cuts = cut_video(index, 256)
    decoded = sum(cuts[1:])
    assert decoded < 2.3 * 90_000
    assert len(cuts) > 8

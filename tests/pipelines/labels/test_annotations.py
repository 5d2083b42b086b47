"""Errors of annotation files, and the small helpers of all sources."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.labels.annotations import (
    cut_block,
    find_runs,
    get_floats,
    get_text,
    get_value,
    name_blocks,
    read_image_size,
    read_json,
    read_pickled_dict,
    to_key,
)
from pipelines.records import SourceError

HERE = Path("file.pkl")


@given(st.lists(st.booleans(), max_size=30))
def test_runs_hold_the_wanted_frames_and_no_other(wanted: list[bool]) -> None:
    runs = find_runs(np.array(wanted, bool))
    found = [i for start, stop in runs for i in range(start, stop)]
    assert found == [i for i, w in enumerate(wanted) if w]
    assert all(a[1] < b[0] for a, b in pairwise(runs))


def test_runs_are_the_wanted_stretches() -> None:
    assert find_runs(np.array([1, 1, 0, 1, 0, 0, 1], bool)) == [(0, 2), (3, 4), (6, 7)]
    assert find_runs(np.zeros(3, bool)) == []
    assert find_runs(np.ones(3, bool)) == [(0, 3)]


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1234])
def test_blocks_hold_each_item_once(count: int) -> None:
    items = list(range(count))
    units = name_blocks(count)
    assert units == sorted(units)
    assert [i for unit in units for i in cut_block(items, unit)] == items


def test_values_are_named_with_file_and_key() -> None:
    content = {"a": {"b": 3, "c": np.array(["f"])}, "d": b"text"}
    assert get_value(HERE, content, "a.b", int) == 3
    assert get_text(HERE, content["a"], "c") == "f"
    assert get_text(HERE, content, "d") == "text"
    with pytest.raises(SourceError, match=r"file\.pkl: no key 'a\.x', has \['b', 'c'\]"):
        get_value(HERE, content, "a.x", int)
    with pytest.raises(SourceError, match=r"file\.pkl: a\.b is a int, expected <class 'str'>"):
        get_value(HERE, content, "a.b", str)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 4)), r"x is float64 of shape \(2, 4\), expected numbers \(\*, 3\)"),
        (np.array([["a", "b", "c"]]), r"x is <U1 of shape \(1, 3\)"),
        ([[1, 2, np.inf]], r"x\[0, 2\] is inf, expected finite"),
        (None, "x is object"),
    ],
)
def test_wrong_numbers_are_refused(value: object, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        get_floats(HERE, {"x": value}, "x", (None, 3))


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for read in (read_json, read_pickled_dict, read_image_size):
        with pytest.raises(SourceError, match="file: no such file"):
            read(path)
    path.write_bytes(b"x")
    for read in (read_json, read_pickled_dict, read_image_size):
        with pytest.raises(SourceError, match="file: not a readable"):
            read(path)
    path.write_text(json.dumps([1]))
    assert read_json(path) == [1]


def test_frames_that_are_not_used_may_hold_anything() -> None:
    used = np.array([True, False])
    found = get_floats(HERE, {"x": [[1.0], [np.nan]]}, "x", (2, 1), used=used)
    np.testing.assert_array_equal(found, [[1], [0]])
    with pytest.raises(SourceError, match=r"x\[0, 0\] is nan"):
        get_floats(HERE, {"x": [[np.nan], [1.0]]}, "x", (2, 1), used=used)


def test_keys_have_the_characters_of_a_key() -> None:
    assert to_key("P0/09 é.outdoor-x_1") == "P0_09___outdoor-x_1"

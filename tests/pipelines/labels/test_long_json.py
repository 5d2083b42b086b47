"""Long lists of matrices and of objects, read a part at a time: against the plain parser."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.labels.long_json import count_matrices, iterate_objects, read_matrices, read_rows
from pipelines.records import SourceError


@given(
    count=st.integers(1, 6),
    indent=st.sampled_from([None, 0, 2]),
    part=st.tuples(st.integers(0, 5), st.integers(1, 6)),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_are_those_of_the_whole(
    tmp_path: Path, count: int, indent: int | None, part: tuple[int, int], seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=(count, 2, 3))
    path = tmp_path / f"{count}-{indent}-{part}-{seed}.json"
    path.write_text(json.dumps(values.tolist(), indent=indent))
    start, stop = min(part[0], count - 1), min(sum(part), count)
    assert count_matrices(path) == count
    np.testing.assert_array_equal(
        read_matrices(path, start, stop, shape=(2, 3)), values[start:stop]
    )
    rows = np.flatnonzero(np.random.default_rng(seed).random(count) < 0.6)
    if len(rows):
        np.testing.assert_array_equal(read_rows(path, rows, shape=(2, 3)), values[rows])


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[[[1]], [[2]]]")
    assert count_matrices(path) == 2
    path.write_text("[[[1]]]")
    assert count_matrices(path) == 1


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(SourceError, match=r"a.json: no such file"):
        count_matrices(path)
    path.write_text("")
    with pytest.raises(SourceError, match=r"a.json: an empty file"):
        count_matrices(path)
    path.write_text("[[[1, 2]], [[3, 4]]]")
    with pytest.raises(SourceError, match=r"matrices 1 to 3 of a list of 2"):
        read_matrices(path, 1, 3, shape=(1, 2))
    with pytest.raises(SourceError, match=r"\[0\] has shape \(1, 2\), expected \(2, 2\)"):
        read_matrices(path, 0, 1, shape=(2, 2))
    path.write_text("[[[1, x]]]")
    with pytest.raises(SourceError, match=r"a.json: \[0\] is not a JSON matrix"):
        read_matrices(path, 0, 1, shape=(1, 2))


@pytest.mark.parametrize("indent", [None, 1])
def test_objects_of_one_list(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "a.json"
    content = {"images": [], "annotations": [{"id": i, "kpts": [i, [2]]} for i in range(4)]}
    path.write_text(json.dumps(content, indent=indent))
    assert list(iterate_objects(path, "annotations")) == content["annotations"]
    assert list(iterate_objects(path, "images")) == []
    with pytest.raises(SourceError, match=r"a.json: lacks a list people"):
        list(iterate_objects(path, "people"))

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from extpose.npz import PickledArrayError, read_npz

DTYPES = st.sampled_from(["<f4", ">f8", "|b1", "<i8", "<U5", "|S3", "<M8[s]"])
ARRAYS = arrays(DTYPES, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


def pack(**content: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **content)  # type: ignore[arg-type]
    return buffer.getvalue()


@given(ARRAYS, ARRAYS, st.booleans())
def test_reads_what_numpy_reads(a: np.ndarray, b: np.ndarray, is_fortran: bool) -> None:
    data = pack(**{"a": np.asfortranarray(a) if is_fortran else a, "target.b": b})
    found = read_npz(data)
    with np.load(io.BytesIO(data)) as expected:
        assert found.keys() == dict(expected).keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])
            assert array.dtype == expected[name].dtype
            assert array.flags.writeable
            assert array.flags.owndata
            assert array.flags.f_contiguous == expected[name].flags.f_contiguous


def test_compressed_and_with_headers_of_other_versions(tmp_path: Path) -> None:
    fields = np.zeros(3, [("ü" * 9, "<f4")])  # headers of version 3.0
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(9), fields=fields)
    found = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["x"], np.arange(9))
    assert found["fields"].dtype == fields.dtype


def test_names() -> None:
    data = pack(a=np.zeros(2), b=np.ones(3))
    assert list(read_npz(data, ["b"])) == ["b"]
    with pytest.raises(ValueError, match=r"no array 'c', has \['a', 'b'\]"):
        read_npz(data, ["a", "c"])


@given(
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 400),
)
def test_damage_is_a_value_error(changes: list[tuple[int, int]], cut: int) -> None:
    """A flipped bit says "encrypted", or another version, as well as "damaged"."""
    whole = {"a": np.arange(12.0).reshape(3, 4), "b": np.zeros((0, 3), "f4")}
    data = bytearray(pack(**whole))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        found = read_npz(bytes(data[: len(data) - max(cut - 200, 0)]))
    except ValueError:
        return
    for name in found.keys() & whole.keys():
        np.testing.assert_array_equal(found[name], whole[name])


@pytest.mark.parametrize(("place", "value"), [(6, 1), (8, 99), (4, 113)])
def test_damaged_headers_of_members(place: int, value: int) -> None:
    """The flags, the compression and the version in the archive's own list."""
    data = bytearray(pack(a=np.zeros(3)))
    data[data.index(b"PK\x01\x02") + 2 + place] = value
    with pytest.raises(ValueError, match=r"encrypted|compression|version"):
        read_npz(bytes(data))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    with pytest.raises(PickledArrayError):
        read_npz(pack(a=np.array([{}], object)))
    (tmp_path / "a.npz").write_bytes(pickle.dumps(np.zeros(3)))
    with pytest.raises(ValueError, match="not a zip file"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "b.npz")

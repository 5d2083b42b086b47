"""The restricted pickle reader: what it reads, and what it must never run."""

import io
import os
import pickle
import struct
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from extpose.errors import AssetError
from extpose.pickles import read_pickle


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 wrote its `str`, and the module names of numpy 1."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(content)
    return (
        buffer.getvalue()
        .replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        .replace(b"scipy.sparse._csc\n", b"scipy.sparse.csc\n")
    )


@pytest.fixture
def chumpy(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Classes that pickle as chumpy's do; chumpy itself is not needed."""

    class Ch:
        def __init__(self, **state: Any) -> None:
            self.__dict__.update(state, _dirty_vars=set(), _itr=None)

        def __reduce__(self) -> tuple:
            import copyreg

            return copyreg._reconstructor, (type(self), object, None), self.__dict__

    class Select(Ch):
        pass

    for cls, module in ((Ch, "chumpy.ch"), (Select, "chumpy.reordering")):
        cls.__module__, cls.__qualname__ = module, cls.__name__
        fake = types.ModuleType(module)
        setattr(fake, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    return types.SimpleNamespace(Ch=Ch, Select=Select)


def read(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "model.pkl"
    path.write_bytes(data)
    return read_pickle(path)


ARRAYS = hnp.arrays(
    st.sampled_from(["<f4", "<f8", ">f4", "<u4", "<i8", "|b1", "|u1", "<U3", "|S4"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@settings(max_examples=60)
@given(array=ARRAYS, protocol=st.integers(0, 5), fortran=st.booleans())
def test_arrays_survive_every_protocol(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, protocol: int, fortran: bool
) -> None:
    array = np.asfortranarray(array) if fortran and array.ndim else array
    content = {"a": array, "b": [1, 2.5, "x", None, True], "c": (array.dtype.str, b"raw")}
    back = read(tmp_path_factory.mktemp("p"), pickle.dumps(content, protocol=protocol))
    assert back["a"].dtype == array.dtype
    np.testing.assert_array_equal(back["a"], array)
    assert back["b"] == content["b"]
    assert back["c"] == content["c"]


def test_python_2_files_with_numpy_1_names_are_read(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(3, 5))
    data = python2_bytes({"array": array, "number": np.float64(1.5), "names": np.array(["é"])})
    assert b"numpy.core.multiarray" in data
    assert b"_codecs" not in data
    back = read(tmp_path, data)
    np.testing.assert_array_equal(back["array"], array)
    assert back["number"] == 1.5
    assert back["names"][0] == "é"


def test_object_arrays_and_containers_are_read(tmp_path: Path) -> None:
    objects = np.empty(2, object)
    objects[0], objects[1] = np.arange(3), "text"
    content = OrderedDict(objects=objects, some={1, 2})
    back = read(tmp_path, pickle.dumps(content))
    np.testing.assert_array_equal(back["objects"][0], np.arange(3))
    assert back["objects"][1] == "text"
    assert back["some"] == {1, 2}


@pytest.mark.parametrize(
    "data_of",
    [
        lambda dense: pickle.dumps(scipy.sparse.csc_matrix(dense)),
        lambda dense: pickle.dumps(scipy.sparse.csc_array(dense)),
        lambda dense: python2_bytes(scipy.sparse.csc_matrix(dense)),
    ],
)
def test_sparse_matrices_become_dense(tmp_path: Path, data_of: Callable) -> None:
    dense = np.random.default_rng(0).normal(size=(4, 7)) * (np.arange(7) % 3 == 0)
    np.testing.assert_array_equal(read(tmp_path, data_of(dense)), dense)


def test_sparse_indices_outside_the_matrix_are_an_error(tmp_path: Path) -> None:
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    matrix.indices[1] = 1000
    with pytest.raises(AssetError, match="not a readable pickle"):
        read(tmp_path, pickle.dumps(matrix))


def test_chumpy_objects_become_their_arrays(tmp_path: Path, chumpy: types.SimpleNamespace) -> None:
    whole = np.arange(24.0).reshape(2, 3, 4)
    part = chumpy.Select(
        a=chumpy.Ch(x=whole), idxs=np.arange(24).reshape(2, 3, 4)[..., :2].ravel(),
        preferred_shape=(2, 3, 2),
    )  # fmt: skip
    data = python2_bytes({"v_template": chumpy.Ch(x=whole[0]), "shapedirs": part})
    assert b"chumpy.ch" in data
    back = read(tmp_path, data)
    np.testing.assert_array_equal(back["v_template"], whole[0])
    np.testing.assert_array_equal(back["shapedirs"], whole[..., :2])


class Calls:
    """Pickles to `function(*args)`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple:
        return self.function, self.args


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_never_runs(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    data = pickle.dumps({"v_template": Calls(os.mkdir, str(marker))}, protocol=protocol)
    pickle.loads(data)
    assert marker.is_dir()  # the file is a working attack on a plain unpickler
    marker.rmdir()
    with pytest.raises(AssetError, match=r"model\.pkl: refused.*`posix\.mkdir`"):
        read(tmp_path, data)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"c__builtin__\nexec\n(S'1'\ntR.", "__builtin__.exec"),
        (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", "numpy.ndarray.__init__"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\ntS'b'\ntR.", "os.system"),
    ],
)
def test_the_error_names_what_was_asked_for(tmp_path: Path, data: bytes, name: str) -> None:
    with pytest.raises(AssetError, match=f"refused, the pickle asks for `{name}`"):
        read(tmp_path, data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        pickle.dumps(np.arange(5))[:-9],
        b"cnumpy\nndarray\n(I5\ntR.",
        b"c__builtin__\nobject\n)R.",
        b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\nc__builtin__\nobject\nNtR.",
        b"ccollections\nOrderedDict\n(I5\ntR.",
    ],
)
def test_broken_files_are_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(AssetError, match=r"model\.pkl: not a readable pickle"):
        read(tmp_path, data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"nothing\.pkl: no such file"):
        read_pickle(tmp_path / "nothing.pkl")

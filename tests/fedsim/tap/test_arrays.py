"""Flower's arrays looked at: what numpy's own reader says, of whole files and of broken ones."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array
from numpy.lib import format as npy

from fedsim.tap.arrays import NUMPY, view

VALUES: dict[str, Any] = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
    "Fortran's order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "a scalar": np.array(2.5),
    "nothing": np.zeros((0, 3)),
    "steps": np.arange(10)[::3],
    "another byte order": np.arange(3, dtype=">f4"),
    "16 bits": np.array([1, -0.0, np.inf], np.float16),
    "truth": np.array([True, False]),
    "fields": np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_view_is_what_flower_reads(name: str) -> None:
    array = Array(VALUES[name])
    got, wanted = view(array), array.numpy()
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    assert got.tobytes("A") == wanted.tobytes("A")


def test_a_view_shares_the_bytes_and_cannot_change_them() -> None:
    array = Array(VALUES["plain"])
    got = view(array)
    assert np.shares_memory(got, np.frombuffer(array.data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = 1.0


def version_two(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    npy.write_array(file, values, version=(2, 0))
    return file.getvalue()


def test_another_version_of_the_format_is_read_as_numpy_does() -> None:
    array = Array("float32", (2, 3), NUMPY, version_two(VALUES["plain"]))
    assert np.array_equal(view(array), VALUES["plain"])


GOOD = Array(VALUES["plain"]).data
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "no npy": b"x" * 200,
    "cut in its head": GOOD[:40],
    "cut in its values": GOOD[:-1],
    "a head of another language": GOOD.replace(b"{'descr'", b"{'descry"),
    "more than there is": GOOD.replace(b"(2, 3)", b"(2, 9)"),
    "fewer than none": GOOD.replace(b"(2, 3)", b"(2,-3)"),
    "a pickle": Array(np.zeros(1, dtype="S4")).data.replace(b"'|S4'", b"'|O4'"),
    "a size beyond all": GOOD.replace(b"(2, 3), }      ", b"(2, 99999999),}"),
}


def said(read: Callable[[], Any]) -> type[BaseException] | None:
    try:
        read()
    except Exception as error:
        return type(error)
    return None


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_as_numpy_does(name: str) -> None:
    array = Array("float32", (2, 3), NUMPY, BROKEN[name])
    wanted = said(array.numpy)
    assert wanted is not None
    got = said(lambda: view(array))
    assert got is not None
    assert issubclass(got, ValueError | EOFError | TypeError)


def test_another_way_to_serialise_is_no_array_of_ours() -> None:
    with pytest.raises(TypeError, match="serialization"):
        view(Array("float32", (2, 3), "torch", GOOD))

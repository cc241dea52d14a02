"""Flower's arrays as numpy's, whoever made them; bfloat16, which numpy has not, as float32."""

import functools
import io
import math
from collections.abc import Mapping

import numpy as np
from flwr.app import Array
from numpy.lib import format as npy

NUMPY = "numpy.ndarray"  # Flower's own way to serialise an array
BFLOAT16 = "bfloat16"
KINDS = {np.dtype(name).name for name in (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)}  # fmt: skip
"""What safetensors holds."""
FIRST_VERSION = npy.magic(1, 0)  # what an npy file of a plain array begins with
HEAD_SIZE = len(FIRST_VERSION)
HEAD = HEAD_SIZE + 2  # and the length of what is said of the array, before it is said
LONGEST = 1024  # bytes of a head that is looked at here


class Unreadable(ValueError):
    """What an array is, which makes it none that can be read."""


def view(array: Array) -> np.ndarray:
    """Return what ``array.numpy()`` does, read-only: its bytes are looked at and not copied.

    Raises:
        TypeError, ValueError: as Flower's and numpy's own.
    """
    values = _viewed(array.data) if array.stype == NUMPY else None
    return array.numpy() if values is None else values


def _viewed(data: bytes) -> np.ndarray | None:
    """Return the array of an npy file as its bytes are; None of one that is not plain, or broken.

    Raises:
        ValueError: its head says nothing that makes sense.
    """
    head = data[: HEAD + int.from_bytes(data[HEAD - 2 : HEAD], "little")]
    if data[:HEAD_SIZE] != FIRST_VERSION or len(head) > LONGEST:
        return None
    shape, fortran, dtype = _layout(head)
    count = math.prod(shape)
    if dtype.hasobject or not 0 < count * dtype.itemsize <= len(data) - len(head):
        return None
    values = np.frombuffer(data, dtype, count, len(head))
    return values.reshape(shape, order="F" if fortran else "C")


@functools.lru_cache(maxsize=4096)
def _layout(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return what the head of an npy file says: shape, whether in Fortran's order, type."""
    file = io.BytesIO(head)
    npy.read_magic(file)
    return npy.read_array_header_1_0(file)


def read_array(array: Array) -> tuple[np.ndarray, str]:
    """Return the numbers, and the name of the type that they had on the wire.

    Raises:
        Unreadable: it is of another library, or broken.
    """
    if BFLOAT16 in array.dtype:
        return widened(_bits(array)).reshape(array.shape), BFLOAT16
    if array.stype != NUMPY:
        raise Unreadable(f"is serialised as {array.stype!r}")
    values = _load(array.data)
    if values.dtype == np.dtype("V2"):  # the legacy API tells no type; bfloat16 is saved so
        return widened(values), BFLOAT16
    if values.dtype.name not in KINDS:
        raise Unreadable(f"is of type {values.dtype}")
    return values.astype(values.dtype.newbyteorder("="), copy=False), values.dtype.name


def read_arrays(arrays: Mapping[str, Array]) -> tuple[dict[str, np.ndarray], set[str], list[str]]:
    """Return the arrays that can be read, the types they had, and of the others why not."""
    values, types, problems = dict[str, np.ndarray](), set[str](), list[str]()
    for name, array in arrays.items():
        try:
            check_name(name)
            values[name], type_ = read_array(array)
        except Unreadable as error:
            problems.append(f"{name!r} {error}")
        else:
            types.add(type_)
    return values, types, problems


def check_name(name: str) -> None:
    """Raise Unreadable where safetensors has no place for an array of that name."""
    if name == "__metadata__" or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise Unreadable("has a name that no file can hold")


def widened(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 as float32, of which it is the upper half; exact."""
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _bits(array: Array) -> np.ndarray:
    """Return the 16 bits of each number, whether or not they were saved as an array."""
    bits = _load(array.data) if array.data[:6] == npy.MAGIC_PREFIX else None
    if bits is None and len(array.data) == 2 * math.prod(array.shape):
        bits = np.frombuffer(array.data, "<u2")
    if bits is None or bits.dtype.itemsize != 2 or bits.size != math.prod(array.shape):
        raise Unreadable(f"is bfloat16, serialised as {array.stype!r}")
    return bits


def _load(data: bytes) -> np.ndarray:
    try:
        values = _viewed(data)
        return npy.read_array(io.BytesIO(data), allow_pickle=False) if values is None else values
    except Exception as error:  # a client's bytes may be anything
        raise Unreadable(f"is broken: {' '.join(str(error).split())[:100]}") from error

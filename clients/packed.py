"""What gzip packed, unpacked: no more than can be meant, however little was packed."""

import gzip
import io

from fedsim import limits
from fedsim.errors import BadInput, reading

CHUNK = 2**16  # bytes


def unpacked(packed: bytes, place: str) -> bytes:
    """Return what ``packed`` holds; ``place`` begins a line of error.

    Raises:
        BadInput: it is not gzip's, is cut short or altered, or unpacks to more than can be meant.
    """
    file, content = io.BytesIO(packed), bytearray()
    with reading(f"{place} cannot be unpacked"), gzip.GzipFile(fileobj=file) as opened:
        while part := opened.read(CHUNK):
            content += part
            _check_size(len(content), file.tell(), place)
    return bytes(content)


def _check_size(size: int, packed: int, place: str) -> None:
    """Raise BadInput where ``size`` bytes are too many for the ``packed`` ones that hold them."""
    if size > limits.DATA_BYTES:
        raise BadInput(f"{place} is too large: it unpacks to more than {limits.DATA_BYTES:,} bytes")
    if size > limits.UNPACKED_BYTES and size > limits.UNPACKED * packed:
        raise BadInput(
            f"{place} unpacks to more than {limits.UNPACKED} times its size, as no text does; "
            "unpack it if it is one"
        )

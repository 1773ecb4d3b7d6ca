"""Decodes `out/predictions.npz` without pickles and in bounded memory.

A header is checked before its array is allocated: a file of 200 bytes may declare an array of terabytes.
"""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pod_worker.core.research.evaluation import RefusalKind, ResultRefusedError
from pod_worker.core.terminal_text import one_line
from pod_worker.tasks.result_files import refuse

FILE = "predictions.npz"
_SPARE_BYTES = 1024 * 1024  # for headers and for further arrays, which are ignored
_HEADER_BYTES = 16 * 1024
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile bounds what these two decompress at a time
_ITEM_BYTES = 16  # of the largest number type
_NUMBERS = "fiub"  # kinds of numpy types that are real numbers


def file_limit_bytes(shapes: dict[str, tuple[int, ...]]) -> int:
    return _SPARE_BYTES + sum(math.prod(shape) * _ITEM_BYTES for shape in shapes.values())


def decode_predictions(content: bytes, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """The named arrays, each of its shape, real and finite. Raises ResultRefusedError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: _array(archive, name, shape) for name, shape in shapes.items()}
    except ResultRefusedError:
        raise
    # A hostile file makes zipfile, zlib, lzma and numpy raise about anything, and all of it means the same.
    except Exception as error:
        refuse(
            RefusalKind.UNREADABLE,
            f"{FILE} cannot be read as written by numpy.savez: {one_line(str(error)[:200])}",
        )


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    member = f"{name}.npy"
    if archive.namelist().count(member) != 1:
        found = ", ".join(sorted(each.removesuffix(".npy") for each in archive.namelist())[:10])
        refuse(
            RefusalKind.SCHEMA, f"{FILE} must have one array {name!r}; it has: {one_line(found[:200]) or 'none'}"
        )
    info = archive.getinfo(member)
    if info.compress_type not in _COMPRESSIONS:
        refuse(RefusalKind.UNREADABLE, f"array {name!r} has a compression that numpy does not write")
    with archive.open(member) as file:
        _check_header(file.read(_HEADER_BYTES), name, shape)
    if info.file_size > math.prod(shape) * _ITEM_BYTES + _HEADER_BYTES:
        refuse(RefusalKind.TOO_LARGE, f"array {name!r} has more bytes than its {shape} numbers need")
    array: NDArray[Any] = np.load(io.BytesIO(archive.read(member)), allow_pickle=False)
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        refuse(RefusalKind.NOT_FINITE, f"array {name!r} has {count} values that are NaN or infinite")
    numbers: NDArray[Any] = array.astype(np.float64)
    return numbers


def _check_header(head: bytes, name: str, expected: tuple[int, ...]) -> None:
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        refuse(RefusalKind.UNREADABLE, f"array {name!r} has version {version} of numpy's format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        refuse(RefusalKind.UNREADABLE, f"array {name!r} holds pickled Python objects; write numbers")
    if dtype.kind not in _NUMBERS:
        refuse(RefusalKind.SCHEMA, f"array {name!r} must hold real numbers, not {dtype}")
    if shape != expected:
        refuse(RefusalKind.SCHEMA, f"array {name!r} has shape {shape}; expected {expected}")

"""Scalars of one TensorBoard event: the few protobuf fields that hold them.

The kept libraries are heavy beside this: `tensorboard` brings protobuf, grpc, numpy and a web server (170 MB), and
`tbparse` adds pandas. Field numbers: tensorflow/core/util/event.proto, framework/summary.proto and tensor.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, TEXT, FIXED32 = 0, 1, 2, 5  # kinds of fields in the encoding
FLOAT, DOUBLE = 1, 2  # data types of a tensor
SCALARS = ("", "scalars")  # plug-ins whose tensors are scalars
_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")

Field = tuple[int, int, int, memoryview]  # number, kind, integer, bytes


class EventFormatError(ValueError):
    """The bytes are no event."""


@dataclass(frozen=True, slots=True)
class ScalarValue:
    tag: str
    value: float
    step: int


def read_scalars(data: bytes) -> list[ScalarValue]:
    """Raises EventFormatError."""
    step, summaries = 0, []
    for number, kind, integer, content in _fields(memoryview(data)):
        if (number, kind) == (2, VARINT):
            step = integer - 2**64 if integer >= 2**63 else integer
        elif (number, kind) == (5, TEXT):
            summaries.append(content)
    values = [
        content
        for summary in summaries
        for number, kind, _, content in _fields(summary)
        if (number, kind) == (1, TEXT)
    ]
    found = [_scalar(value) for value in values]
    return [ScalarValue(*each, step) for each in found if each is not None]


def _scalar(value: memoryview) -> tuple[str, float] | None:
    tag, number_found, plugin = "", None, ""
    for number, kind, _, content in _fields(value):
        if (number, kind) == (1, TEXT):
            tag = _text(content)
        elif (number, kind) == (2, FIXED32):
            number_found = _FLOAT.unpack(content)[0]
        elif (number, kind) == (8, TEXT):
            number_found = _single_element(content)
        elif (number, kind) == (9, TEXT):
            plugin = _plugin(content)
    return None if number_found is None or plugin not in SCALARS else (tag, float(number_found))


def _single_element(tensor: memoryview) -> float | None:
    """The element of a tensor of one float or double."""
    data_type, found = 0, b""
    for number, kind, integer, content in _fields(tensor):
        if (number, kind) == (1, VARINT):
            data_type = integer
        elif number in (4, 5, 6) and kind != VARINT:  # tensor_content, float_val, double_val
            found += bytes(content)
    if data_type not in (FLOAT, DOUBLE):
        return None
    form = _FLOAT if data_type == FLOAT else _DOUBLE
    return float(form.unpack(found)[0]) if len(found) == form.size else None


def _plugin(metadata: memoryview) -> str:
    """SummaryMetadata.plugin_data.plugin_name"""
    for number, kind, _, content in _fields(metadata):
        if (number, kind) == (1, TEXT):
            names = [_text(each) for inner, form, _, each in _fields(content) if (inner, form) == (1, TEXT)]
            return names[-1] if names else ""
    return ""


def _text(content: memoryview) -> str:
    return bytes(content).decode(errors="replace")


def _fields(data: memoryview) -> Iterator[Field]:
    at, empty = 0, data[:0]
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            integer, at = _varint(data, at)
            yield number, kind, integer, empty
            continue
        if kind == TEXT:
            length, at = _varint(data, at)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise EventFormatError(f"a field of kind {kind}")
        if length > len(data) - at:
            raise EventFormatError("a field is longer than the event")
        yield number, kind, 0, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise EventFormatError("a number does not end")

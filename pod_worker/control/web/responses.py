"""Documents as JSON responses: an unknown value becomes text, never an error."""

from __future__ import annotations

import msgspec
from fastapi.responses import Response

from pod_worker.core.run import Json

_encoder = msgspec.json.Encoder(enc_hook=str)


def encode_json(value: Json) -> bytes:
    """Dates in RFC 3339, NaN and infinities as null, anything unknown as text."""
    return _encoder.encode(value)


def json_response(value: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    fresh = {"Cache-Control": "no-store"} | (headers or {})
    return Response(encode_json(value), status, fresh, "application/json")

"""Bearer authentication for HTTP sessions, safe against ~/.netrc and injection.

`requests` replaces an Authorization header by a login from ~/.netrc unless the session has an `auth` of its own.
`BearerAuth` is that `auth`: a callable, so that this module needs no HTTP library.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Protocol, TypeVar


class _HasHeaders(Protocol):
    @property
    def headers(self) -> MutableMapping[str, str]: ...


RequestT = TypeVar("RequestT", bound=_HasHeaders)


class InvalidTokenError(ValueError):
    """The token cannot be sent in a header.

    The message names the setting and never the token.
    """


class BearerAuth:
    """Sets `Authorization: Bearer <token>`; without a token it only disables ~/.netrc.

    Raises InvalidTokenError for a token that is not one line of printable ASCII (RFC 9110 section 5.5).
    """

    __slots__ = ("_token",)

    def __init__(self, token: str | None, setting: str = "CONTROL_PLANE_TOKEN") -> None:
        if token and not (token.isascii() and token.isprintable() and token.strip() == token):
            raise InvalidTokenError(
                f"{setting} holds a character that an HTTP header cannot carry; "
                "set it to one line of printable ASCII without spaces around it"
            )
        self._token = token

    def __call__(self, request: RequestT) -> RequestT:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def __repr__(self) -> str:
        return "BearerAuth(***)" if self._token else "BearerAuth(None)"

"""Secrets: a type that never prints its value, the rule for values, and redaction of text.

A value that a header cannot carry fails deep inside an HTTP library, whose error quotes it. So the rule is
applied where values enter (RFC 9110 section 5.5: visible ASCII).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

MASK = "***"
MIN_REDACTED_CHARACTERS = 4  # shorter ones would mask ordinary words


class InvalidSecretError(ValueError):
    """The message says what is wrong with the value and never quotes it."""


class Secret:
    """A value that prints as `***`. `reveal` returns it, for the adapter that sends it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __str__(self) -> str:
        return MASK

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def revealed(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()


def read_secret(text: str, *, min_length: int = 1, is_header: bool = True) -> Secret:
    """`text` without white space around it. Raises InvalidSecretError."""
    value = text.strip().removeprefix("\ufeff").strip()
    if not value:
        raise InvalidSecretError("is empty")
    if len(value.splitlines()) > 1:
        raise InvalidSecretError("has more than one line")
    if not value.isprintable():
        raise InvalidSecretError("has a character that cannot be printed")
    if is_header and not value.isascii():
        raise InvalidSecretError("has a character outside ASCII, which an HTTP header cannot carry")
    if is_header and " " in value:
        raise InvalidSecretError("has a space inside")
    if len(value) < min_length:
        raise InvalidSecretError(f"is shorter than {min_length} characters")
    return Secret(value)


class Redactor:
    """Replaces every known secret in a text by `***`, also where it is quoted or escaped."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        longest_first = sorted(filter(_is_redactable, forms), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        return self._pattern.sub(MASK, text) if self._pattern else text


def _is_redactable(form: str) -> bool:
    return len(form.strip()) >= MIN_REDACTED_CHARACTERS


def _forms(secret: str) -> Iterable[str]:
    for value in {secret, secret.strip(), *_credentials(secret)}:
        yield value
        yield repr(value)[1:-1]  # as a traceback quotes it
        yield quote(value, safe="")


def _credentials(text: str) -> Iterable[str]:
    """User info and password of a URL, as written and decoded."""
    _, separator, rest = text.strip().partition("://")
    if not separator or "@" not in rest:
        return
    user_info = rest.partition("/")[0].rpartition("@")[0] or rest.rpartition("@")[0]
    password = user_info.partition(":")[2]
    yield from filter(None, (user_info, password, unquote(password)))


def has_credentials(url: str) -> bool:
    """Whether a URL carries a user or a password."""
    try:
        return "@" in urlsplit(url if "://" in url else f"//{url}").netloc
    except ValueError:
        return "@" in url

"""Secrets: a type that never prints its value, rules for values, and redaction.

It also decides which variables hold one.

A value that a header cannot carry fails deep inside an HTTP library, whose error quotes it. So the rule is
applied where values enter (RFC 9110 section 5.5: visible ASCII).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

MASK = "***"
MIN_REDACTED_CHARACTERS = 4  # shorter ones would mask ordinary words
MIN_GUESSED_CHARACTERS = 8  # of a value that is a secret only by its variable's name, such as `true`
MIN_LINE_CHARACTERS = 16  # of one line of a secret with several, such as a private key
BASE64_LINE = 76  # RFC 2045
_SECRET_WORDS = re.compile(r"KEY|TOKEN(?!IZERS)|SECRET|PASS(?:W|_|$)|CREDENTIAL|_PAT$|_AUTH|DSN")
_PLACES = ("_DIR", "_PATH", "_FILE", "_HOME", "_SOCK")  # of a secret, not the secret


class InvalidSecretError(ValueError):
    """The message says what is wrong with the value and never quotes it."""


class Secret:
    """A value that prints as `***`.

    `reveal` returns it, for the adapter that sends it.
    """

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


def is_secret_name(variable: str) -> bool:
    """Whether a variable of this name holds a secret, as far as a name can tell."""
    return bool(_SECRET_WORDS.search(variable.upper()))


def secret_values(variables: Mapping[str, str]) -> list[str]:
    """The values of environment variables that hold a secret.

    Known by their name, or by a password in a URL.
    """
    return [
        value
        for name, value in variables.items()
        if (is_secret_name(name) and not name.endswith(_PLACES) and len(value.strip()) >= MIN_GUESSED_CHARACTERS)
        or is_url_with_credentials(value)
    ]


class Redactor:
    """Replaces known secrets in a text by `***`, also quoted or in base64."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = tuple(secrets)
        forms = {form for secret in self._secrets for form in _forms(secret) if _is_redactable(form)}
        texts = sorted(forms, key=len, reverse=True)  # the longest first
        # In an encoded event, a text that holds JSON itself is escaped once more.
        escaped = {json.dumps(form, ensure_ascii=False)[1:-1] for form in forms}
        encoded = sorted({_encoded(form) for form in forms | escaped}, key=len, reverse=True)
        self._forms = tuple(encoded)
        self._pattern = re.compile("|".join(map(re.escape, texts))) if texts else None
        self._bytes_pattern = re.compile(b"|".join(map(re.escape, encoded))) if encoded else None
        self.longest_bytes = max(map(len, encoded), default=0)

    def with_more(self, secrets: Iterable[str]) -> Redactor:
        """Also of these secrets."""
        more = tuple(secrets)
        return Redactor((*self._secrets, *more)) if more else self

    def __bool__(self) -> bool:
        """Whether there is anything to redact."""
        return bool(self._forms)

    def __call__(self, text: str) -> str:
        return self._pattern.sub(MASK, text) if self._pattern else text

    def is_in(self, data: bytes) -> bool:
        """Whether the data holds a secret. Much faster than a search for a pattern."""
        return any(form in data for form in self._forms)

    def redact_bytes(self, data: bytes) -> bytes:
        return self._bytes_pattern.sub(MASK.encode(), data) if self._bytes_pattern and self.is_in(data) else data

    def find(self, data: bytes, start: int) -> Iterable[tuple[int, int]]:
        """(start, end) of every secret in `data` from `start`."""
        return (found.span() for found in self._bytes_pattern.finditer(data, start)) if self._bytes_pattern else ()

    def redact_json(self, value: Any) -> Any:
        """A JSON value with its texts and keys redacted.

        Numbers stay, so that JSON stays JSON.
        """
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self(name): self.redact_json(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.redact_json(each) for each in value]
        return value


def _encoded(text: str) -> bytes:
    """As bytes of a file or a pipe.

    An environment variable that is not UTF-8 holds surrogates.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _is_redactable(form: str) -> bool:
    return len(form.strip()) >= MIN_REDACTED_CHARACTERS


def _forms(secret: str) -> Iterable[str]:
    lines = [line.strip() for line in secret.splitlines()] if "\n" in secret.strip() else []
    lines = [line for line in lines if len(line) >= MIN_LINE_CHARACTERS]
    for value in {secret, secret.strip(), *lines, *_credentials(secret)}:
        yield value
        yield repr(value)[1:-1]  # as a traceback quotes it
        yield quote(_encoded(value), safe="")
        yield json.dumps(value)[1:-1]
        yield json.dumps(value, ensure_ascii=False)[1:-1]
        yield from _base64_forms(_encoded(value))


def _base64_forms(value: bytes) -> Iterable[str]:
    """What base64 of any text with the value inside has in common.

    Three forms, by the place of the value among groups of three bytes; without the digits that its neighbours
    change. Lines as the program `base64` writes them. A short form could be an ordinary word.
    """
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            digits = encode(bytes(shift) + value).decode()
            form = digits[(shift * 8 + 5) // 6 : (shift + len(value)) * 8 // 6]
            if len(form) < MIN_GUESSED_CHARACTERS:
                continue
            yield form
            if shift == 0 and len(form) > BASE64_LINE:
                lines = (form[start : start + BASE64_LINE] for start in range(0, len(form), BASE64_LINE))
                yield from (line for line in lines if len(line) >= MIN_LINE_CHARACTERS)


def _credentials(text: str) -> Iterable[str]:
    """User info and password of a URL, as written and decoded."""
    _, separator, rest = text.strip().partition("://")
    if not separator or "@" not in rest:
        return
    user_info = rest.partition("/")[0].rpartition("@")[0] or rest.rpartition("@")[0]
    password = user_info.partition(":")[2]
    yield from filter(None, (user_info, password, unquote(password)))


def is_url_with_credentials(value: str) -> bool:
    """Whether any text is a URL that carries a user or a password."""
    return "://" in value and has_credentials(value)


def has_credentials(url: str) -> bool:
    """Whether a URL carries a user or a password."""
    try:
        return "@" in urlsplit(url if "://" in url else f"//{url}").netloc
    except ValueError:
        return "@" in url

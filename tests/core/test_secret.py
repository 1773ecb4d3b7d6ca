"""A secret never prints its value, bad values are refused without being quoted, and redaction finds every form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.secret import InvalidSecretError, Redactor, Secret, has_credentials, read_secret

VALUE = "sentinel-0123456789"


def test_no_way_of_printing_shows_the_value() -> None:
    secret = Secret(VALUE)
    shown = [str(secret), repr(secret), f"{secret}", f"{secret:>40}", f"{secret!r}", repr([secret])]
    assert not [text for text in shown if "sentinel" in text]
    assert secret.reveal() == VALUE
    with pytest.raises(TypeError):
        json.dumps(secret)


def test_white_space_and_a_byte_order_mark_around_a_value_are_removed() -> None:
    assert read_secret(f"\ufeff {VALUE}\r\n").reveal() == VALUE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        (f"{VALUE}\n{VALUE}", "more than one line"),
        (f"{VALUE}\x00x", "cannot be printed"),
        (f"{VALUE}\x7f", "cannot be printed"),
        (f"{VALUE} x", "space"),
        (f"{VALUE}ü", "outside ASCII"),
        ("short", "shorter than 16"),
    ],
)
def test_a_bad_value_is_refused_and_not_quoted(text: str, reason: str) -> None:
    with pytest.raises(InvalidSecretError, match=reason) as raised:
        read_secret(text, min_length=16)
    assert "sentinel" not in str(raised.value)


@given(st.text(min_size=8))
def test_a_secret_that_is_accepted_can_be_sent_in_a_header(text: str) -> None:
    try:
        value = read_secret(text, min_length=8).reveal()
    except InvalidSecretError:
        return
    assert value.encode("ascii").decode("latin-1").isprintable()
    assert value == value.strip()


@pytest.mark.parametrize(
    "text",
    [
        "Invalid header value b'Bearer sentinel\\ü\\n'",
        "url http://user:pa%40ss%2Fword@host/db",
        "decoded pa@ss/word",
        "escaped 'sentinel\\\\ü\\n'",
        "percent sentinel%5C%C3%BC%0A",
    ],
)
def test_every_form_of_a_secret_is_masked(text: str) -> None:
    redact = Redactor(["sentinel\\ü\n", "http://user:pa%40ss%2Fword@host/db", "", "x"])
    shown = redact(text)
    assert "***" in shown
    assert "sentinel" not in shown
    assert "pa%40" not in shown
    assert "pa@ss" not in shown


def test_without_secrets_text_stays_as_it_is() -> None:
    assert Redactor([])("text") == "text"
    assert Redactor(["x"])("a text with x") == "a text with x"


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("http://user:pass@host", True),
        ("http://user@host/x", True),
        ("user:pass@host:9000", True),
        ("http://[::1", False),
        ("https://host/a@b", False),
        ("host:9000", False),
    ],
)
def test_credentials_in_a_url_are_seen(url: str, has: bool) -> None:
    assert has_credentials(url) is has

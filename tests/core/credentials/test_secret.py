"""A secret never prints its value, bad values are refused without being quoted, and redaction finds every form."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pod_worker.core.credentials.secret import (
    MASK,
    MIN_REDACTED_CHARACTERS,
    InvalidSecretError,
    Redactor,
    Secret,
    has_credentials,
    read_secret,
    secret_values,
)

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


@pytest.mark.parametrize(
    "name",
    ["WANDB_API_KEY", "HF_TOKEN", "GITHUB_PAT", "DB_PASS", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "SENTRY_DSN"],
)
def test_a_variable_with_the_name_of_a_secret_holds_one(name: str) -> None:
    assert secret_values({name: "0123456789"}) == ["0123456789"]


def test_a_url_with_a_password_is_a_secret_under_any_name() -> None:
    url = "postgres://ana:hunter22@db/x"
    assert secret_values({"DATABASE_URL": url, "HOST_URL": "http://db/x"}) == [url]
    assert Redactor([url])("cannot connect as ana:hunter22") == "cannot connect as ***"


def test_ordinary_values_are_no_secrets() -> None:
    ordinary = {
        "TOKENIZERS_PARALLELISM": "false-or-true",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "true",
        "SSH_KEY_DIR": "/workspace/keys",
        "PATH": "/usr/bin:/bin",
        "MODEL": "a-rather-long-name",
    }
    assert secret_values(ordinary) == []


@given(st.text(min_size=MIN_REDACTED_CHARACTERS), st.text(max_size=20), st.text(max_size=20))
def test_no_encoding_of_a_value_hides_a_secret(secret: str, before: str, after: str) -> None:
    assume(len(secret.strip()) >= MIN_REDACTED_CHARACTERS)
    masked = json.dumps({"a": [before + MASK + after], MASK: 1.5}, ensure_ascii=False).split(MASK)
    assume(not any(secret in part for part in masked))  # as 0000 is in \u0000
    redactor = Redactor([secret])
    value = {"a": [before + secret + after], secret: 1.5}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(json.dumps(value))):
        assert redactor.is_in(text.encode("utf-8", "surrogatepass"))
    redacted = redactor.redact_json(value)
    assert not any(secret in part for part in json.dumps(redacted, ensure_ascii=False).split(MASK))
    assert 1.5 in redacted.values()


def test_a_secret_of_several_lines_is_masked_line_by_line() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcw\nshort\n-----END KEY-----\n"
    assert Redactor([key])("line MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcw") == "line ***"


@given(st.text(min_size=8).map(lambda text: "s" + text), st.binary(max_size=7), st.binary(max_size=7))
def test_base64_of_a_text_with_a_secret_shows_at_most_its_ends(secret: str, before: bytes, after: bytes) -> None:
    try:
        value = secret.encode()
    except UnicodeEncodeError:
        assume(False)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(before + value + after).decode()
        shown = Redactor([secret])(encoded)
        assert MASK in shown
        assert len(shown) - len(MASK) <= (len(before) + len(after)) * 4 / 3 + 8


def test_base64_in_lines_is_found() -> None:
    secret = "".join(chr(33 + number % 90) for number in range(200))
    shown = Redactor([secret])(base64.encodebytes(secret.encode()).decode())
    assert len(shown.replace(MASK, "").strip()) <= 4, "the last digits may stay"


def test_more_secrets_make_another_redactor() -> None:
    first = Redactor([VALUE])
    second = first.with_more(["another-one"])
    assert second(f"{VALUE} another-one") == f"{MASK} {MASK}"
    assert first("another-one") == "another-one"
    assert first.with_more([]) is first

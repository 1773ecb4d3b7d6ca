"""Sealed secrets: opened by their control plane alone, under their own name, and never quoted."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.sealing import VALUE_LIMIT_BYTES, PrivateKey, SealError, open_sealed, private_key, seal

PHRASE = "encryption-key-0123456789-0123456789"
KEY = PrivateKey.derive(PHRASE)
VALUE = "sentinel-0123456789"


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), st.text())
def test_what_was_sealed_is_opened(value: str, name: str) -> None:
    name = name.encode("utf-8", "replace").decode()
    assert open_sealed(KEY, name, seal(KEY.public, name, value)) == value


def test_two_seals_of_one_value_differ() -> None:
    assert seal(KEY.public, "A", VALUE) != seal(KEY.public, "A", VALUE)


def test_the_key_is_the_same_after_a_restart_and_of_its_source_alone() -> None:
    assert PrivateKey.derive(PHRASE).public == KEY.public
    assert PrivateKey.derive_from_token(PHRASE).public != KEY.public
    assert private_key(PHRASE, "token").public == KEY.public
    assert private_key(None, PHRASE).public == PrivateKey.derive_from_token(PHRASE).public
    assert private_key(None, None) is None


def test_a_sealed_value_opens_under_its_own_name_only() -> None:
    text = seal(KEY.public, "HF_TOKEN", VALUE)
    with pytest.raises(SealError, match="another key or name"):
        open_sealed(KEY, "WANDB_API_KEY", text)


def test_another_key_opens_nothing() -> None:
    text = seal(KEY.public, "A", VALUE)
    with pytest.raises(SealError, match="set ENCRYPTION_KEY"):
        open_sealed(PrivateKey.derive(PHRASE + "x"), "A", text)


@pytest.mark.parametrize("place", [0, 1, 20, 33, -1])
def test_a_changed_text_is_refused(place: int) -> None:
    sealed = bytearray(base64.b64decode(seal(KEY.public, "A", VALUE)))
    sealed[place] ^= 1
    with pytest.raises(SealError):
        open_sealed(KEY, "A", base64.b64encode(bytes(sealed)).decode())


def _cut(size: int) -> str:
    return base64.b64encode(base64.b64decode(seal(KEY.public, "A", VALUE))[:size]).decode()


@pytest.mark.parametrize(
    "make",
    [str, lambda: "no base64!", lambda: "ü", *(lambda size=size: _cut(size) for size in (1, 10, 33, 40))],
)
def test_a_text_that_is_no_seal_is_refused(make: Callable[[], str]) -> None:
    with pytest.raises(SealError):
        open_sealed(KEY, "A", make())


def test_a_point_of_small_order_is_refused() -> None:
    with pytest.raises(SealError):
        open_sealed(KEY, "A", base64.b64encode(b"\x01" + bytes(80)).decode())
    with pytest.raises(SealError, match="public key"):
        seal(base64.b64encode(bytes(32)).decode(), "A", VALUE)


@pytest.mark.parametrize("public", ["", "ü", "no base64!", base64.b64encode(bytes(31)).decode()])
def test_a_public_key_that_is_none_is_refused(public: str) -> None:
    with pytest.raises(SealError, match="public key is not valid"):
        seal(public, "A", VALUE)


@pytest.mark.parametrize(
    "value", ["", f"{VALUE}\0", f"{VALUE}\udcff", VALUE * (VALUE_LIMIT_BYTES // len(VALUE) + 1)]
)
def test_a_value_that_no_variable_holds_is_refused_and_not_quoted(value: str) -> None:
    with pytest.raises(SealError) as raised:
        seal(KEY.public, "A", value)
    assert "sentinel" not in str(raised.value)
    assert "'A'" in str(raised.value)


def test_a_key_prints_nothing_of_itself() -> None:
    assert repr(KEY) == str(KEY) == "PrivateKey(***)"

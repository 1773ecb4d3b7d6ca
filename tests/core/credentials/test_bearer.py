"""The token that is sent is the one that was given, whatever ~/.netrc says, and it is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from pod_worker.core.credentials.bearer import BearerAuth, InvalidTokenError


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine localhost login other password else\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


def _authorization(auth: object) -> str | None:
    session = requests.Session()
    session.auth = auth  # type: ignore[assignment]
    prepared = session.prepare_request(requests.Request("GET", "http://localhost/"))
    return prepared.headers.get("Authorization")


@pytest.mark.usefixtures("netrc")
def test_netrc_never_replaces_the_token() -> None:
    assert str(_authorization(None)).startswith("Basic "), "requests reads this netrc"
    assert _authorization(BearerAuth("key")) == "Bearer key"
    assert _authorization(BearerAuth(None)) is None
    assert _authorization(BearerAuth("")) is None


@pytest.mark.parametrize("token", ["key\n", "key\r\nX-Admin: 1", " key", "k\x00y", "schlüssel", "ключ", "k\ud800"])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(InvalidTokenError, match=r"^RUNPOD_API_KEY holds") as caught:
        BearerAuth(token, "RUNPOD_API_KEY")
    assert token.strip() not in str(caught.value)


def test_the_token_is_not_in_the_repr() -> None:
    assert "secret" not in repr(BearerAuth("secret"))

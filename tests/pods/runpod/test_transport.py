"""Which requests are retried, how long, and that the key never appears in a message."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pod_worker.core.clock import ManualClock
from pod_worker.pods.errors import RateLimitedError, ServerError, UnreachableError
from pod_worker.pods.runpod.transport import MAX_BODY_BYTES, HttpRetryPolicy, Transport, path_segment, retry_after
from tests.pods.scripted_server import Answer, ScriptedServer

KEY = "rpa_very_secret_key"


class Wire:
    def __init__(self, url: str, retry_policy: HttpRetryPolicy = HttpRetryPolicy()) -> None:  # noqa: B008
        self.clock = ManualClock()
        self.slept: list[float] = []
        self.transport = Transport(
            url, KEY, clock=self.clock, sleep=self.sleep, rng=random.Random(1), retry_policy=retry_policy
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.advance(seconds)


@pytest.fixture
def wire(server: ScriptedServer) -> Iterator[Wire]:
    wire = Wire(server.url)
    yield wire
    wire.transport.close()


def test_the_key_travels_in_a_header_and_netrc_cannot_replace_it(
    server: ScriptedServer, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.script = [Answer(200, {"ok": True})]
    assert wire.transport.call("GET", "/x", params={"a": 1}).body == {"ok": True}
    (asked,) = server.asked
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.params == {"a": "1"}


def test_a_missing_key_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="RUNPOD_API_KEY"):
        Transport("http://x", "", clock=ManualClock(), sleep=lambda s: None, rng=random.Random())


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_reads_and_deletes_are_sent_again_after_5xx_and_lost_replies(
    server: ScriptedServer, wire: Wire, method: str
) -> None:
    server.script = [Answer(503), Answer(hang_up=True), Answer(200, {"ok": 1})]
    assert wire.transport.call(method, "/x").status == 200
    assert len(server.asked) == 3


def test_a_post_is_sent_once_when_the_reply_is_5xx(server: ScriptedServer, wire: Wire) -> None:
    server.script = [Answer(503, headers={"Retry-After": "1"}), Answer(200)]
    assert wire.transport.call("POST", "/x", body={}).status == 503
    assert len(server.asked) == 1


def test_a_post_is_sent_once_when_the_reply_is_lost(server: ScriptedServer, wire: Wire) -> None:
    server.script = [Answer(hang_up=True), Answer(200)]
    with pytest.raises(UnreachableError) as error:
        wire.transport.call("POST", "/x", body={})
    assert error.value.sent
    assert len(server.asked) == 1


def test_a_post_whose_reply_breaks_off_counts_as_sent(server: ScriptedServer, wire: Wire) -> None:
    server.script = [Answer(200, {"id": "p"}, headers={"Content-Length": "999", "Connection": "close"})]
    with pytest.raises(UnreachableError) as error:
        wire.transport.call("POST", "/x", body={})
    assert error.value.sent


def test_a_post_that_never_connected_is_sent_again_and_says_so(server: ScriptedServer) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    wire = Wire(f"http://127.0.0.1:{port}", HttpRetryPolicy(attempts=3))
    with pytest.raises(UnreachableError) as error:
        wire.transport.call("POST", "/x", body={})
    assert not error.value.sent
    assert len(wire.slept) == 2
    wire.transport.close()


def test_429_is_waited_out_for_get_and_post(server: ScriptedServer, wire: Wire) -> None:
    for method in ("GET", "POST"):
        server.script = [Answer(429, headers={"Retry-After": "12"}), Answer(200)]
        assert wire.transport.call(method, "/x").status == 200
    assert wire.slept == [12.0, 12.0]


def test_a_longer_wait_than_the_budget_is_the_callers(server: ScriptedServer, wire: Wire) -> None:
    server.script = [Answer(429, headers={"Retry-After": "3600"})]
    with pytest.raises(RateLimitedError) as limited:
        wire.transport.call("POST", "/x")
    assert limited.value.wait_seconds == 3600.0
    assert wire.slept == []


def test_a_storm_of_429_ends_as_rate_limited(server: ScriptedServer, wire: Wire) -> None:
    server.script = [Answer(429, headers={"Retry-After": "5"})] * 4
    with pytest.raises(RateLimitedError):
        wire.transport.call("GET", "/x")
    assert wire.slept == [5.0, 5.0, 5.0]


def test_the_last_5xx_is_handed_on(server: ScriptedServer, wire: Wire) -> None:
    server.script = [Answer(500, {"error": "broken"})] * 4
    assert wire.transport.call("GET", "/x").status == 500


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30.0),
        ({"Retry-After": "Wed, 31 Dec 2025 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"RateLimit": '"minute";r=0;t=12, "hour";r=0;t=300, "day";r=9;t=4000'}, 300.0),
        ({"RateLimit": '"minute";r=3;t=12'}, None),
        ({}, None),
    ],
)
def test_retry_after_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, ManualClock()) == seconds


def test_a_redirect_is_not_followed_with_the_key(server: ScriptedServer, wire: Wire) -> None:
    server.script = [Answer(302, headers={"Location": f"{server.url}/elsewhere"})]
    assert wire.transport.call("GET", "/x").status == 302
    assert len(server.asked) == 1


def test_the_key_is_cut_out_of_replies_errors_and_logs(
    server: ScriptedServer, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = [Answer(503), Answer(401, {"error": f"bad key {KEY}"})]
    reply = wire.transport.call("GET", "/x")
    assert reply.text == '{"error": "bad key ***"}'
    assert reply.body == {"error": "bad key ***"}
    server.script = [Answer(hang_up=True)]
    with pytest.raises(UnreachableError) as error:
        wire.transport.call("POST", "/x")
    assert KEY not in str(error.value)
    assert KEY not in caplog.text
    assert "sending again" in caplog.text


def test_a_password_in_the_address_is_not_in_errors() -> None:
    wire = Wire("http://ana:sentinel@127.0.0.1:1", HttpRetryPolicy(attempts=1))
    with pytest.raises(UnreachableError) as error:
        wire.transport.call("GET", "/x")
    wire.transport.close()
    assert "at http://***@127.0.0.1:1" in str(error.value)
    assert "sentinel" not in str(error.value)


def test_a_reply_that_does_not_end_is_cut_off(
    server: ScriptedServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pod_worker.pods.runpod.transport.MAX_BODY_BYTES", 1024)
    server.script = [Answer(200, raw=b"x" * 200_000)]
    with pytest.raises(ServerError, match="MiB"):
        wire.transport.call("GET", "/x")
    assert MAX_BODY_BYTES >= 1024 * 1024


def test_ids_cannot_leave_their_path_segment() -> None:
    assert path_segment("../../v2/pods") == "..%2F..%2Fv2%2Fpods"
    with pytest.raises(ValueError, match="empty"):
        path_segment("")

"""The proxy's weather, against a real socket and a real replica set's discovery."""

from __future__ import annotations

import gc
import socket
import threading
import warnings
from collections.abc import Iterator

import bson
import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, ServerSelectionTimeoutError

from chaos.mongo_wire import Frames, Rewriter
from chaos.proxy import Address, Link, LinkState, Proxy
from pod_worker.local.mongod import Mongod


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as running:
        yield running


@pytest.fixture
def echo() -> Iterator[Address]:
    """A server that says back what it hears, in capitals."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1024):
                    connection.sendall(data.upper())
            except OSError:
                pass

    accepting = threading.Thread(target=serve, daemon=True)
    accepting.start()
    yield Address("127.0.0.1", listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)  # close() alone leaves the thread in accept()
    accepting.join()
    listener.close()


def dial(link: Link, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection((link.address.host, link.address.port), timeout)


def is_gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True


def test_under_a_clear_sky_bytes_pass_both_ways(proxy: Proxy, echo: Address) -> None:
    with dial(proxy.add("echo", echo)) as connection:
        connection.sendall(b"hello")
        assert connection.recv(10) == b"HELLO"


def test_a_cut_ends_open_connections_and_refuses_new_ones_until_it_clears(proxy: Proxy, echo: Address) -> None:
    link = proxy.add("echo", echo)
    with dial(link) as before:
        before.sendall(b"a")
        assert before.recv(1) == b"A"
        proxy.set_link_state(link, LinkState.CUT)
        assert is_gone(before)
    with dial(link) as during:
        assert is_gone(during)
    proxy.set_link_state(link, LinkState.CLEAR)
    with dial(link) as after:
        after.sendall(b"b")
        assert after.recv(1) == b"B"


def test_a_black_hole_holds_the_bytes_and_lets_them_go_late(proxy: Proxy, echo: Address) -> None:
    link = proxy.add("echo", echo)
    with dial(link) as connection:
        connection.sendall(b"a")
        assert connection.recv(1) == b"A"
        proxy.set_link_state(link, LinkState.HANG)
        connection.sendall(b"b")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.set_link_state(link, LinkState.CLEAR)
        connection.settimeout(5)
        assert connection.recv(1) == b"B"


def test_dropped_replies_never_arrive_and_the_connection_is_not_used_again(proxy: Proxy, echo: Address) -> None:
    link = proxy.add("echo", echo)
    with dial(link) as connection:
        connection.sendall(b"a")
        assert connection.recv(1) == b"A"
        proxy.set_link_state(link, LinkState.DROP_REPLIES)
        connection.sendall(b"b")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.set_link_state(link, LinkState.CLEAR)
        connection.settimeout(5)
        assert is_gone(connection)


def test_a_half_closed_connection_ends_for_the_client(proxy: Proxy, echo: Address) -> None:
    link = proxy.add("echo", echo)
    with dial(link) as connection:
        connection.sendall(b"a")
        assert connection.recv(1) == b"A"
        proxy.set_link_state(link, LinkState.HALF_CLOSE)
        assert connection.recv(1) == b""
        connection.sendall(b"still heard")


def test_connections_accepted_just_before_the_end_are_closed(echo: Address) -> None:
    """Whatever stays open is reported when it is collected: as a failure of another test."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(10):
            with Proxy() as proxy:
                link = proxy.add("echo", echo)
                for connection in [dial(link) for _ in range(4)]:
                    connection.close()
        gc.collect()
    assert [str(each.message) for each in caught] == []


def test_a_driver_discovers_the_set_behind_the_proxy_and_stays_there(proxy: Proxy, mongod: Mongod) -> None:
    link = proxy.add("mongodb", Address("127.0.0.1", mongod.members[0].port))
    link.rewriter = Rewriter({mongod.members[0].address: str(link.address)})
    url = f"mongodb://{link.address}/?replicaSet=pod_worker"
    client: MongoClient[dict[str, object]] = MongoClient(url, serverSelectionTimeoutMS=500, retryReads=False)
    with client:
        client.admin.command("ping")
        assert client.primary == (link.address.host, link.address.port)
        proxy.set_link_state(link, LinkState.CUT)
        with pytest.raises((AutoReconnect, ServerSelectionTimeoutError)):
            client.admin.command("ping")


def test_frames_are_cut_where_messages_end_whatever_the_chunks() -> None:
    messages = [(16 + n).to_bytes(4, "little") + bytes(12 + n) for n in (0, 5, 300)]
    stream, frames = b"".join(messages), Frames()
    found = [frame for place in range(0, len(stream), 7) for frame in frames.feed(stream[place : place + 7])]
    assert found == messages


def test_both_forms_of_an_answer_are_rewritten_and_others_left_alone() -> None:
    hello = {"setName": "rs", "hosts": ["a:1", "b:2"], "me": "a:1", "primary": "b:2"}
    rewriter = Rewriter({"a:1": "longer.example:10001", "b:2": "p:2"})
    body = bson.encode(hello)
    old = _message(1, bytes(20) + body)
    new = _message(2013, bytes(5) + body)
    for message, start in ((old, 36), (new, 21)):
        rewritten = rewriter.rewrite(message)
        assert int.from_bytes(rewritten[:4], "little") == len(rewritten)
        answer = bson.decode(rewritten[start:])
        assert answer["hosts"] == ["longer.example:10001", "p:2"]
        assert (answer["me"], answer["primary"]) == ("longer.example:10001", "p:2")
    other = _message(2013, bytes(5) + bson.encode({"ok": 1}))
    assert rewriter.rewrite(other) == other


def _message(opcode: int, body: bytes) -> bytes:
    header = (16 + len(body), 7, 8, opcode)
    return b"".join(number.to_bytes(4, "little") for number in header) + body

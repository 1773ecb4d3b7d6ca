"""A real replica set: restarts on its folder whatever happened, one owner, failover."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil
import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from pod_worker.local.errors import ChildDiedError, FolderInUseError, LocalStackError, NotReadyError
from pod_worker.local.folder_lock import FolderLock
from pod_worker.local.mongod import Mongod, require_mongodb
from tests.conftest import MONGOD_CACHE_GB


def write(server: Mongod, value: int) -> None:
    with MongoClient(server.url) as client:
        client.get_default_database().numbers.insert_one({"_id": value})


def read(server: Mongod) -> list[int]:
    with MongoClient(server.url) as client:
        return [document["_id"] for document in client.get_default_database().numbers.find().sort("_id")]


def test_url_leads_to_the_primary_and_names_the_database(mongod: Mongod) -> None:
    with MongoClient(mongod.url) as client:
        assert client.get_default_database().name == "ai_scientist"
        assert client.admin.command("hello")["isWritablePrimary"]
        with client.start_session() as session, session.start_transaction():  # only a replica set can
            client.get_database("test_local").numbers.insert_one({}, session=session)
        with client.get_database("test_local").numbers.watch() as stream:
            assert stream.alive
        client.drop_database("test_local")


def test_listens_on_loopback_only_with_a_bounded_cache(mongod: Mongod) -> None:
    member = mongod.members[0]
    listening = [c for c in psutil.Process(member.process.pid).net_connections() if c.status == psutil.CONN_LISTEN]

    assert [(c.laddr.ip, c.laddr.port) for c in listening] == [("127.0.0.1", member.port)]
    with member.client() as client:
        cache = client.admin.command("serverStatus")["wiredTiger"]["cache"]
        assert cache["maximum bytes configured"] == MONGOD_CACHE_GB * 1024**3


def test_it_may_open_as_many_files_as_the_machine_allows(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        with Mongod(tmp_path) as server:
            assert resource.prlimit(server.members[0].process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_data_survives_restart_on_another_port_and_sigkill(tmp_path: Path) -> None:
    server = Mongod(tmp_path)
    with server:
        first_port = server.members[0].port
        write(server, 1)
    server = Mongod(tmp_path)
    server.start()
    assert server.members[0].port != first_port
    write(server, 2)
    server.members[0].kill()
    server.kill()
    with Mongod(tmp_path) as server:
        assert read(server) == [1, 2]


def test_folder_has_one_owner(mongod: Mongod) -> None:
    other = Mongod(mongod.data_dir)

    with pytest.raises(FolderInUseError, match="in use by process"):
        other.start()

    assert mongod.primary() is not None


def test_server_stays_owner_of_its_folder_without_us(tmp_path: Path) -> None:
    """Where the kernel does not end children with us, a survivor must not meet a second server."""
    server = Mongod(tmp_path)
    server.start()
    server._lock.release()

    with pytest.raises(FolderInUseError):
        Mongod(tmp_path).start()

    server.kill()
    again = FolderLock(tmp_path)
    again.acquire()
    again.release()


def test_taken_port_is_an_error_that_shows_the_log(mongod: Mongod, tmp_path: Path) -> None:
    with pytest.raises(ChildDiedError, match="ddress already in use"):
        Mongod(tmp_path, port=mongod.members[0].port).start()


def test_set_that_already_listens_on_our_port_is_not_taken_for_ours(mongod: Mongod, tmp_path: Path) -> None:
    idle = tmp_path / "idle"
    idle.write_text("#!/bin/sh\nexec sleep 600\n")
    idle.chmod(0o755)

    with pytest.raises(NotReadyError):
        Mongod(tmp_path, port=mongod.members[0].port, binary=idle).start(timeout_seconds=0.5)


def test_broken_data_is_an_error_that_shows_the_log_and_frees_the_folder(tmp_path: Path) -> None:
    (tmp_path / "member0").mkdir()
    (tmp_path / "member0" / "WiredTiger.wt").write_bytes(b"not a table")
    (tmp_path / "member0" / "storage.bson").write_bytes(b"nonsense")

    with pytest.raises(ChildDiedError, match=r"mongod ended with .*\n.*Last lines of"):
        Mongod(tmp_path).start()
    with pytest.raises(ChildDiedError):
        Mongod(tmp_path).start()


def test_three_members_elect_a_new_primary_and_move_together(tmp_path: Path, eventually) -> None:
    server = Mongod(tmp_path, members=3)
    with server:
        write(server, 1)
        killed = server.wait_for_primary()
        killed.kill()
        assert server.wait_for_primary() is not killed
        write(server, 2)
        killed.start()
        eventually(lambda: bool(killed.hello().get("secondary")))
    with Mongod(tmp_path, members=3) as server:
        assert read(server) == [1, 2]
        server.kill()
    with pytest.raises(LocalStackError, match="a replica set of 3 members, not 1"):
        Mongod(tmp_path, members=1).start()


def test_frozen_member_is_silent_until_thawed(tmp_path: Path) -> None:
    with Mongod(tmp_path) as server:
        member = server.members[0]
        member.pause()
        assert member.hello() == {}
        member.resume()
        assert server.wait_for_primary() is member


def test_given_url_is_checked(mongod: Mongod) -> None:
    require_mongodb(mongod.url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mongodb://ann:s3cret@127.0.0.1:1/x", "No MongoDB at mongodb://ann:***@127.0.0.1:1/x"),
        (
            "mongodb://ann:s3cret/pass@127.0.0.1:1",
            "mongodb://ann:***@127.0.0.1:1 is not a MongoDB connection string",
        ),
        ("mongodb://ann:s3c@ret@127.0.0.1:1", "mongodb://ann:***@127.0.0.1:1 is not"),
        ("http://127.0.0.1", "http://127.0.0.1 is not"),
    ],
)
def test_wrong_url_is_named_without_its_password(url: str, shown: str) -> None:
    with pytest.raises(LocalStackError) as caught:
        require_mongodb(url, timeout_seconds=0.2)

    assert str(caught.value).startswith(shown)
    assert "s3c" not in str(caught.value)
    assert "Fix: correct MONGODB_URL" in str(caught.value)
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, PyMongoError)

"""Real services for every test: one mongod and one S3 server per session, a empty database and a fresh bucket per test.

Nothing is started before the first test that asks for it. A missing service fails the test and names the fix;
it is never skipped.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from pod_worker.cli.startup import prepare_process

if TYPE_CHECKING:
    from minio import Minio
    from pymongo import MongoClient
    from pymongo.database import Database

    from pod_worker.local.mongod import Mongod
    from pod_worker.local.s3 import ObjectStoreServer, S3Access
    from pod_worker.sandbox.client import SandboxClient
    from tests.database_pool import DatabasePool

MONGOD_CACHE_GB = 1.0
CLOSE_FILES = "file_manager=(close_idle_time=2,close_scan_interval=1,close_handle_minimum=100)"
_numbers = itertools.count(1)

# HYPOTHESIS_PROFILE=deep looks for minutes instead of seconds. No deadlines: machines are shared.
settings.register_profile("short", deadline=None, print_blob=True)
settings.register_profile("deep", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


def pytest_configure(config: pytest.Config) -> None:
    """As our programs do first: then tests behave alike under nohup, in background jobs and behind a proxy.

    Not in the process that starts pytest-xdist's workers: they must inherit the signals that nohup ignores.
    """
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        prepare_process()
    try:
        Path.home()
    except RuntimeError:  # no HOME and no passwd entry: our commands ask for a HOME, and so do libraries
        os.environ["HOME"] = tempfile.mkdtemp(prefix="home-")


@pytest.fixture(scope="session")
def training_libraries() -> None:
    """Fails each test that trains a model where torch is not installed. tests/training needs it as a whole."""
    if find_spec("torch") is None:
        pytest.fail("torch is not installed, and this test trains a model. Fix: make train", pytrace=False)


@pytest.fixture(scope="session")
def code_runner() -> Iterator[SandboxClient]:
    """One warm sandbox with numpy and scikit-learn for the tests that execute programs of experiments."""
    from pod_worker.sandbox.client import SandboxClient
    from pod_worker.sandbox.starting import LocalStarter
    from tests.sandbox.support import ROOT, open_python

    modules = ["numpy", "sklearn.ensemble", "sklearn.svm"]
    packages = os.pathsep.join([str(ROOT), *(path for path in sys.path if "site-packages" in path)])
    with SandboxClient(LocalStarter(modules, open_python(), {"PYTHONPATH": packages})) as client:
        yield client


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A temporary folder that the user of sandboxed programs may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="open-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """A one-node replica set in a temporary folder, shared by the session."""
    from pod_worker.local.errors import LocalStackError
    from pod_worker.local.mongod import Mongod

    # Tests store rows of fixed past dates, which the TTL monitor would delete at its next pass, once a minute.
    # A small cache refuses large writes (code 388) while the disk is slow.
    server = Mongod(
        tmp_path_factory.mktemp("mongod"), cache_gb=MONGOD_CACHE_GB, parameters={"ttlMonitorEnabled": "false"}
    )
    try:
        server.start()
        with server.members[0].client() as client:
            # A database per test has about eighty files. Those of dropped ones stay open for ten minutes otherwise.
            client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig=CLOSE_FILES)
    except LocalStackError as error:
        pytest.fail(str(error), pytrace=False)
    yield server
    server.kill()  # the folder is thrown away: no need for the second a clean stop takes


@pytest.fixture(scope="session")
def mongo_client(mongod: Mongod) -> Iterator[MongoClient[dict[str, Any]]]:
    """One client for the session, with time zones. Make your own from `mongodb_url` to test a connection."""
    from pymongo import MongoClient

    client: MongoClient[dict[str, Any]] = MongoClient(mongod.url, tz_aware=True)
    yield client
    client.close()


@pytest.fixture(scope="session")
def database_pool(mongo_client: MongoClient[dict[str, Any]]) -> DatabasePool:
    from tests.database_pool import DatabasePool

    return DatabasePool(mongo_client)


@pytest.fixture
def mongodb_url(mongod: Mongod, database_pool: DatabasePool) -> Iterator[str]:
    """The URL of an empty database of this test alone, with all indexes."""
    name = database_pool.take()
    yield mongod.url_for(name)
    database_pool.give_back(name)


@pytest.fixture
def db(mongodb_url: str, mongo_client: MongoClient[dict[str, Any]]) -> Database[dict[str, Any]]:
    """The database of `mongodb_url`, through the session's client."""
    from pymongo.uri_parser import parse_uri

    return mongo_client[parse_uri(mongodb_url)["database"]]


@pytest.fixture
def bare_mongodb_url(mongod: Mongod, database_pool: DatabasePool) -> Iterator[str]:
    """The URL of a database that does not exist yet; dropped after the test."""
    name = database_pool.bare_name()
    yield mongod.url_for(name)
    database_pool.drop(name)


@pytest.fixture
def bare_db(bare_mongodb_url: str, mongo_client: MongoClient[dict[str, Any]]) -> Database[dict[str, Any]]:
    """The database of `bare_mongodb_url`, through the session's client."""
    from pymongo.uri_parser import parse_uri

    return mongo_client[parse_uri(bare_mongodb_url)["database"]]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    """A real S3 server in a temporary folder, shared by the session."""
    from pod_worker.local.errors import LocalStackError
    from pod_worker.local.s3 import ObjectStoreServer

    server = ObjectStoreServer(tmp_path_factory.mktemp("s3"))
    try:
        server.start()
    except LocalStackError as error:
        pytest.fail(str(error), pytrace=False)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def s3_client(s3_server: ObjectStoreServer) -> Iterator[Minio]:
    """A minio client for the session's server."""
    from pod_worker.local.s3 import connect

    with connect(s3_server.access) as client:
        yield client


@pytest.fixture
def s3(s3_server: ObjectStoreServer, s3_client: Minio) -> S3Access:
    """Endpoint, keys and a fresh bucket of this test's own (`s3.bucket`)."""
    from dataclasses import replace

    access = replace(s3_server.access, bucket=f"test-{os.getpid()}-{next(_numbers)}")
    s3_client.make_bucket(access.bucket)
    return access

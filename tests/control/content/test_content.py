"""Content from a folder through the real routes and store to a copy on a pod."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import uvicorn

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.content.manifest import Manifest, encode
from pod_worker.content.materialise import materialise
from pod_worker.content.pod_client import TreeClient
from pod_worker.content.tree import Tree, scan
from pod_worker.content.upload_client import ContentClient, ContentUploadError
from pod_worker.content.wire import PackRef
from pod_worker.control.app import build_app
from pod_worker.control.content.sweep import sweep_content
from pod_worker.control.server import bind
from pod_worker.core.credentials.attempt_token import mint
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.worker.child_io import CONTENT_CACHE, ContentFolders
from tests.control.conftest import TOKEN, Db
from tests.sandbox.support import NeverStop

LATER = timedelta(days=40)


@pytest.fixture
def objects(s3: Any) -> ObjectStore:
    return ObjectStore(s3.endpoint, s3.access_key, s3.secret_key, s3.bucket)


@pytest.fixture
def url(store: Db, objects: ObjectStore) -> Iterator[str]:
    app = build_app(store, objects, token=TOKEN, open_on_loopback=False)
    listener = bind("127.0.0.1", 0, 64)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def client(url: str) -> ContentClient:
    return ContentClient(url, TOKEN, retry_seconds=5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "job"
    (made / "sub").mkdir(parents=True)
    (made / "run.sh").write_text("echo 1\n")
    (made / "run.sh").chmod(0o755)
    (made / "sub/data.bin").write_bytes(bytes(range(256)) * 50)
    (made / "empty").touch()
    (made / "link").symlink_to("sub/data.bin")
    return made


def _pod(url: str, db: Db, tree: Tree) -> TreeClient:
    db["runs"].insert_one({"_id": "r1", "params": {"workdir": {"manifest": tree.sha256}}})
    return TreeClient(url, mint(TOKEN, "r1", 1), "r1", NeverStop(), retry_seconds=0)


def _materialise(pod: TreeClient, tree: Tree, target: Path, cache: Path, **settings: Any) -> None:
    manifest, packs = pod.tree(tree.sha256)
    materialise(manifest, lambda: packs, target, cache, pod.fetch_pack, NeverStop(), **settings)


def test_a_tree_arrives_as_it_was(
    client: ContentClient, url: str, store: Db, folder: Path, tmp_path: Path
) -> None:
    tree = scan(folder)
    assert client.upload(tree) == tree.sha256
    target, cache = tmp_path / "work", tmp_path / "cache"
    (target / "sub/old").mkdir(parents=True)
    (target / "sub/old/file").touch()
    (target / "run.sh").symlink_to("/etc/passwd")
    pod = _pod(url, store, tree)
    _materialise(pod, tree, target, cache)
    assert scan(target).encoded == tree.encoded
    assert not list(cache.glob(".*"))

    def refuse(pack: PackRef, path: Path) -> Path:
        raise AssertionError("everything is in the cache")

    materialise(tree.manifest, lambda: pod.tree(tree.sha256)[1], target, cache, refuse, NeverStop())
    assert scan(target).encoded == tree.encoded


def test_a_second_upload_sends_what_changed(client: ContentClient, store: Db, folder: Path) -> None:
    sent: list[int] = []
    client.upload(scan(folder), lambda progress: sent.append(progress.total))
    client.upload(scan(folder), lambda progress: sent.append(progress.total))
    (folder / "new").write_text("12345")
    client.upload(scan(folder), lambda progress: sent.append(progress.total))
    assert list(dict.fromkeys(sent)) == [7 + 12_800, 5]
    assert store["content_packs"].count_documents({}) == 2


def test_two_clients_at_once(url: str, store: Db, folder: Path) -> None:
    tree = scan(folder)
    with ThreadPoolExecutor(4) as pool:
        clients = [ContentClient(url, TOKEN, retry_seconds=5) for _ in range(4)]
        assert set(pool.map(lambda each: each.upload(tree), clients)) == {tree.sha256}
    assert store["content"].count_documents({}) == 3


def test_a_pack_that_is_not_what_was_announced_is_not_recorded(url: str, store: Db) -> None:
    with requests.Session() as http:
        http.headers["Authorization"] = f"Bearer {TOKEN}"
        good = hashlib.sha256(b"good").hexdigest()
        for sha256, files in (
            (good, [(good, 4)]),
            (hashlib.sha256(b"evil").hexdigest(), [(good, 4)]),
            (hashlib.sha256(b"evil").hexdigest(), [(good, 2), (good, 2)]),
            (hashlib.sha256(b"evil").hexdigest(), [(hashlib.sha256(b"evil").hexdigest(), 4), (good, 0)]),
        ):
            grant = http.post(f"{url}/api/content/packs/presign").json()
            assert requests.put(grant["url"], data=b"evil", timeout=10).ok
            listed = [{"sha256": name, "bytes": size} for name, size in files]
            body = {"key": grant["key"], "sha256": sha256, "bytes": 4, "files": listed}
            answer = http.post(f"{url}/api/content/packs/finalize", json=body)
            assert (answer.status_code, answer.json()["code"]) == (422, "mismatch")
    assert store["content"].count_documents({}) == store["content_packs"].count_documents({}) == 0


def test_one_pack_does_not_wait_for_another(
    client: ContentClient, url: str, objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of 5 GiB takes minutes; a submit of another user would wait as long."""
    started, release = threading.Event(), threading.Event()
    real = ObjectStore.copy

    def slow(self: ObjectStore, source: Any, target: str) -> None:
        if source.bytes == 5:
            started.set()
            assert release.wait(60)
        real(self, source, target)

    monkeypatch.setattr(ObjectStore, "copy", slow)
    (tmp_path / "slow").write_text("12345")
    (tmp_path / "fast").write_text("1234")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ContentClient(url, TOKEN).put_data, tmp_path / "slow")
        assert started.wait(60)
        try:
            assert client.put_data(tmp_path / "fast").bytes == 4
            assert not waiting.done()
        finally:
            release.set()
        assert waiting.result(60).bytes == 5


def test_a_manifest_without_its_files_is_refused(url: str, store: Db, folder: Path) -> None:
    http = {"Authorization": f"Bearer {TOKEN}"}
    answer = requests.post(f"{url}/api/content/manifests", data=scan(folder).encoded, headers=http, timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (409, "content_missing")
    assert store["content_manifests"].count_documents({}) == 0


@pytest.mark.parametrize("route", ["missing", "packs/finalize", "manifests", "data"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'"x"',
        b"[" * 100_000,
        b'{"hashes":["../x"],"key":"../../x","sha256":"..","bytes":-1,"files":[],"name":"../x"}',
        b'{"hashes":[{"$gt":""}],"manifest":{"$gt":""}}',
        b'{"hashes":[' + b'"' + b"a" * 64 + b'",' * 1 + b"null]}",
    ],
)
def test_malformed_bodies_are_refused(plane: Any, objects: ObjectStore, route: str, body: bytes) -> None:
    http = plane(object_store=objects)
    answer = http.post(f"/api/content/{route}", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text


def test_an_attempt_reads_only_its_own_workdir(url: str, client: ContentClient, store: Db, folder: Path) -> None:
    tree = scan(folder)
    client.upload(tree)
    _pod(url, store, tree)
    store["runs"].insert_one({"_id": "r2", "params": {}})
    headers = {"Authorization": f"Bearer {mint(TOKEN, 'r2', 1)}"}
    assert requests.get(f"{url}/api/runs/r1/workdir", headers=headers, timeout=10).status_code == 403
    assert requests.get(f"{url}/api/runs/r2/workdir", headers=headers, timeout=10).status_code == 404
    asked = requests.post(f"{url}/api/content/missing", json={"hashes": []}, headers=headers, timeout=10)
    assert asked.status_code == 403


def test_a_cache_that_a_run_changed_is_not_believed(
    client: ContentClient, url: str, store: Db, folder: Path, tmp_path: Path
) -> None:
    tree = scan(folder)
    client.upload(tree)
    pod, cache = _pod(url, store, tree), tmp_path / "cache"
    _materialise(pod, tree, tmp_path / "work", cache)
    by_path = {each.path: each.sha256 for each in tree.manifest.files}
    (cache / by_path["run.sh"]).write_text("evil 1\n")
    (cache / by_path["sub/data.bin"]).unlink()
    (cache / by_path["sub/data.bin"]).symlink_to("/etc/passwd")
    (cache / by_path["empty"]).unlink()
    os.mkfifo(cache / by_path["empty"])
    shutil.rmtree(tmp_path / "work")
    _materialise(pod, tree, tmp_path / "work", cache)
    assert scan(tmp_path / "work").encoded == tree.encoded


def test_a_pack_with_other_bytes_is_named(
    client: ContentClient, url: str, store: Db, folder: Path, tmp_path: Path
) -> None:
    tree = scan(folder)
    client.upload(tree)
    manifest, packs = _pod(url, store, tree).tree(tree.sha256)

    def other_bytes(pack: PackRef, path: Path) -> Path:
        path.write_bytes(b"x" * pack.bytes)
        return path

    with pytest.raises(RunError, match="not what its hash names"):
        materialise(manifest, lambda: packs, tmp_path / "work", tmp_path / "cache", other_bytes, NeverStop())


def test_the_cache_stays_within_its_limit(
    client: ContentClient, url: str, store: Db, folder: Path, tmp_path: Path
) -> None:
    tree = scan(folder)
    client.upload(tree)
    _materialise(_pod(url, store, tree), tree, tmp_path / "work", tmp_path / "cache", cache_bytes=100)
    assert sum(each.stat().st_size for each in (tmp_path / "cache").iterdir()) <= 100


def test_stop_ends_the_copy(folder: Path, tmp_path: Path) -> None:
    class Stop(NeverStop):
        def check(self) -> None:
            raise InterruptedError

    manifest: Manifest = scan(folder).manifest
    with pytest.raises(InterruptedError):
        materialise(manifest, list, tmp_path / "work", tmp_path / "cache", lambda _, path: path, Stop())


def test_content_that_nothing_names_is_swept(
    client: ContentClient, url: str, store: Db, objects: ObjectStore, folder: Path
) -> None:
    tree = scan(folder)
    client.upload(tree)
    assert sweep_content(store, objects, datetime.now(UTC)) == 0
    _pod(url, store, tree)
    assert sweep_content(store, objects, datetime.now(UTC) + LATER) == 0, "a run names it"
    store["runs"].delete_many({})
    assert sweep_content(store, objects, datetime.now(UTC) + LATER) == 2
    assert objects.list("content/") == []
    assert client.upload(tree) == tree.sha256, "it can be uploaded again"


def test_a_submit_in_progress_keeps_its_content(
    client: ContentClient, store: Db, objects: ObjectStore, folder: Path
) -> None:
    tree = scan(folder)
    client.upload(tree)
    for name in ("content_packs", "content_manifests"):
        store[name].update_many({}, {"$set": {"lastUsedAt": datetime.now(UTC) - LATER}})
    assert client.missing(tree) == []
    assert sweep_content(store, objects, datetime.now(UTC)) == 0


def test_a_file_that_changed_since_the_scan_is_named(client: ContentClient, store: Db, folder: Path) -> None:
    tree = scan(folder)
    (folder / "run.sh").write_text("other")
    with pytest.raises(ContentUploadError, match=r"'run\.sh' changed"):
        client.upload(tree)
    assert store["content_packs"].count_documents({}) == 0


def test_a_data_set_has_a_key(client: ContentClient, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("{}\n")
    first = client.put_data(file)
    assert first.key == f"data/{hashlib.sha256(b'{}' + bytes([10])).hexdigest()[:16]}/train.jsonl"
    assert client.put_data(file).key == first.key
    assert [each.key for each in client.data_sets()] == [first.key]


def test_any_attempt_fetches_a_data_set(client: ContentClient, url: str, tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("{}\n")
    key = client.put_data(file).key
    headers = {"Authorization": f"Bearer {mint(TOKEN, 'r1', 1)}"}
    route = f"{url}/api/runs/r1/artifacts/presign"
    asked = requests.post(route, json={"action": "get", "key": key}, headers=headers, timeout=10).json()
    assert requests.get(asked["url"], timeout=10).content == file.read_bytes()
    assert asked["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    absent = {"action": "get", "key": "data/../x"}
    assert requests.post(route, json=absent, headers=headers, timeout=10).status_code == 404


def _pod_folders(url: str, work_dir: Path) -> ContentFolders:
    spec: Any = SimpleNamespace(
        control_plane_url=url,
        attempt_token=mint(TOKEN, "r1", 1),
        run=SimpleNamespace(id="r1"),
        work_dir=str(work_dir / "r1"),
    )
    return ContentFolders(spec, NeverStop())


def test_a_folder_is_one_data_set_for_any_attempt(
    client: ContentClient, url: str, folder: Path, tmp_path: Path
) -> None:
    tree = scan(folder)
    made = client.put_data_folder(tree, "corpus")
    assert (made.key, made.files, made.bytes) == (f"data/{tree.sha256[:16]}/corpus/", 3, tree.bytes)
    assert client.put_data_folder(tree, "corpus") == made
    pod = _pod_folders(url, tmp_path)
    assert scan(pod.fetch_data(made.key, "", tmp_path / "all")).encoded == tree.encoded
    one = pod.fetch_data(made.key, "sub/data.bin", tmp_path / "one")
    assert one.read_bytes() == (folder / "sub/data.bin").read_bytes()
    assert [path.name for path in (tmp_path / "one").rglob("*")] == ["sub", "data.bin"]
    for key, path in ((made.key, "sub/none"), (f"data/{tree.sha256[:16]}/other/", "")):
        with pytest.raises(RunError) as refused:
            pod.fetch_data(key, path, tmp_path / "none")
        assert refused.value.code is FailureCode.INVALID_INPUT


def test_a_workdir_that_this_pod_has_is_copied_without_the_control_plane(
    client: ContentClient, url: str, store: Db, folder: Path, tmp_path: Path
) -> None:
    tree = scan(folder)
    client.upload(tree)
    _pod(url, store, tree)
    _pod_folders(url, tmp_path).fetch_workdir(tree.sha256, tmp_path / "first")
    unreachable = _pod_folders("http://127.0.0.1:9", tmp_path)
    unreachable.fetch_workdir(tree.sha256, tmp_path / "second")
    assert scan(tmp_path / "second").encoded == tree.encoded
    other = encode(Manifest(files=tree.manifest.files[:1]))
    (tmp_path / CONTENT_CACHE / tree.sha256).write_bytes(other)
    with_network = _pod_folders(url, tmp_path)
    with_network.fetch_workdir(tree.sha256, tmp_path / "third")
    assert scan(tmp_path / "third").encoded == tree.encoded


def test_the_key_of_a_folder_is_no_file(client: ContentClient, url: str, folder: Path) -> None:
    key = client.put_data_folder(scan(folder), "corpus").key
    headers = {"Authorization": f"Bearer {mint(TOKEN, 'r1', 1)}"}
    for each in (key, key.rstrip("/")):
        body = {"action": "get", "key": each}
        answer = requests.post(f"{url}/api/runs/r1/artifacts/presign", json=body, headers=headers, timeout=10)
        assert (answer.status_code, answer.json()["code"]) == (404, "object_missing")
    assert requests.get(f"{url}/api/runs/r2/data?key={key}", headers=headers, timeout=10).status_code == 403


def test_a_data_set_is_swept_when_nothing_used_it_for_long(
    client: ContentClient, store: Db, objects: ObjectStore, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("{}\n")
    keys = {client.put_data(file).key, client.put_data_folder(scan(folder), "corpus").key}
    assert sweep_content(store, objects, datetime.now(UTC) + timedelta(days=170)) == 0
    in_folder = next(key for key in keys if key.endswith("/")) + "sub/data.bin"
    for key in (next(key for key in keys if not key.endswith("/")), in_folder):
        store["runs"].insert_one({"status": "QUEUED", "params": {"dataset": key, "lr": 0.1}})
    late = datetime.now(UTC) + timedelta(days=190)
    assert sweep_content(store, objects, late) == 0, "a run names it"
    assert {each.key for each in client.data_sets()} == keys
    store["runs"].update_many({}, {"$set": {"status": "COMPLETED"}})
    assert sweep_content(store, objects, late) == 3
    assert (client.data_sets(), objects.list("content/")) == ([], [])


def test_a_key_of_other_content_is_refused(client: ContentClient, store: Db, tmp_path: Path) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text("one\n")
    made = client.put_data(file)
    assert client.put_data(file) == made
    store["data_sets"].update_one({"_id": made.key}, {"$set": {"pack": "0" * 64}})  # an equal start of the hash
    with pytest.raises(ContentUploadError) as refused:
        client.put_data(file)
    assert refused.value.code == "key_taken"
    found = store["data_sets"].find_one({"_id": made.key})
    assert found is not None
    assert found["pack"] == "0" * 64

"""A real S3 server: what the artifact code relies on, and what is written down as different."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from base64 import b64encode
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import requests
from minio import Minio
from minio.datatypes import Part
from minio.error import InvalidResponseError, S3Error

from pod_worker.local.errors import FolderInUseError, LocalStackError
from pod_worker.local.process import free_port
from pod_worker.local.s3 import ObjectStoreServer, S3Access, connect, parse_endpoint, require_bucket

MINUTE = timedelta(minutes=1)
KEY = "runs/r1/1/model.bin"


def part_url(client: Minio, bucket: str, upload: str, number: int) -> str:
    query = {"uploadId": upload, "partNumber": str(number)}
    return client.get_presigned_url("PUT", bucket, KEY, expires=MINUTE, extra_query_params=query)


def start_upload(client: Minio, bucket: str) -> str:
    return client._create_multipart_upload(bucket, KEY, {"Content-Type": "application/octet-stream"})


def test_put_stat_list_get_delete(s3: S3Access, s3_client: Minio) -> None:
    s3_client.put_object(s3.bucket, KEY, io.BytesIO(b"weights"), 7, content_type="application/x-weights")

    found = s3_client.stat_object(s3.bucket, KEY)
    assert (found.size, found.content_type) == (7, "application/x-weights")
    assert found.etag == hashlib.md5(b"weights").hexdigest()
    assert [o.object_name for o in s3_client.list_objects(s3.bucket, prefix="runs/", recursive=True)] == [KEY]
    with s3_client.get_object(s3.bucket, KEY) as response:
        assert response.read() == b"weights"
    s3_client.remove_object(s3.bucket, KEY)
    with pytest.raises(S3Error) as caught:
        s3_client.stat_object(s3.bucket, KEY)
    assert caught.value.code == "NoSuchKey"


def test_presigned_put_and_get(s3: S3Access, s3_client: Minio) -> None:
    put = s3_client.presigned_put_object(s3.bucket, KEY, MINUTE)
    assert (
        requests.put(put, data=b"weights", headers={"Content-Type": "text/plain"}, timeout=10).status_code == 200
    )

    get = s3_client.presigned_get_object(s3.bucket, KEY, MINUTE)
    assert requests.get(get, timeout=10).content == b"weights"
    part = requests.get(get, headers={"Range": "bytes=1-3"}, timeout=10)
    assert (part.content, part.headers["Content-Range"]) == (b"eig", "bytes 1-3/7")


def test_signature_is_for_one_key_and_one_method(s3: S3Access, s3_client: Minio) -> None:
    put = s3_client.presigned_put_object(s3.bucket, KEY, MINUTE)

    assert requests.put(put.replace("model.bin", "other.bin"), data=b"x", timeout=10).status_code == 403
    assert requests.get(put, timeout=10).status_code == 403
    assert requests.get(f"{s3.url}/{s3.bucket}/{KEY}", timeout=10).status_code == 400


def test_declared_md5_is_checked_and_unsigned_amz_headers_are_refused(s3: S3Access, s3_client: Minio) -> None:
    put = s3_client.presigned_put_object(s3.bucket, KEY, MINUTE)
    wrong_md5 = {"Content-MD5": b64encode(bytes(16)).decode()}
    sha256 = {"x-amz-checksum-sha256": b64encode(hashlib.sha256(b"weights").digest()).decode()}

    assert requests.put(put, data=b"weights", headers=wrong_md5, timeout=10).status_code == 400
    assert requests.put(put, data=b"weights", headers=sha256, timeout=10).status_code == 403
    assert list(s3_client.list_objects(s3.bucket, recursive=True)) == []


def test_multipart_with_presigned_parts_out_of_order(s3: S3Access, s3_client: Minio) -> None:
    size = 5 * 1024 * 1024
    data = os.urandom(2 * size + 1000)
    upload = start_upload(s3_client, s3.bucket)

    parts = []
    for number in (1, 3, 2):
        chunk = data[(number - 1) * size : number * size]
        answer = requests.put(part_url(s3_client, s3.bucket, upload, number), data=chunk, timeout=30)
        assert answer.headers["ETag"].strip('"') == hashlib.md5(chunk).hexdigest()
        parts.append(Part(number, answer.headers["ETag"].strip('"')))
    parts.sort(key=lambda part: part.part_number)
    assert len(s3_client._list_parts(s3.bucket, KEY, upload).parts) == 3
    result = s3_client._complete_multipart_upload(s3.bucket, KEY, upload, parts)

    assert str(result.etag).endswith("-3")
    assert s3_client.stat_object(s3.bucket, KEY).size == len(data)
    with s3_client.get_object(s3.bucket, KEY) as response:
        assert hashlib.sha256(response.read()).digest() == hashlib.sha256(data).digest()


def test_part_may_be_sent_again_with_the_same_bytes_only(s3: S3Access, s3_client: Minio) -> None:
    url = part_url(s3_client, s3.bucket, start_upload(s3_client, s3.bucket), 1)

    assert requests.put(url, data=b"a" * 1000, timeout=10).status_code == 200
    assert requests.put(url, data=b"a" * 1000, timeout=10).status_code == 200
    assert requests.put(url, data=b"b" * 1000, timeout=10).status_code == 501


def test_upload_becomes_visible_only_when_complete(s3: S3Access, s3_client: Minio) -> None:
    upload = start_upload(s3_client, s3.bucket)
    requests.put(part_url(s3_client, s3.bucket, upload, 1), data=b"half", timeout=10).raise_for_status()

    assert list(s3_client.list_objects(s3.bucket, recursive=True)) == []
    s3_client._abort_multipart_upload(s3.bucket, KEY, upload)
    with pytest.raises(InvalidResponseError, match="NoSuchUpload"):
        s3_client._complete_multipart_upload(s3.bucket, KEY, upload, [Part(1, "0" * 32)])


def test_restart_keeps_keys_and_objects_and_removes_half_uploads(tmp_path: Path, eventually) -> None:
    server = ObjectStoreServer(tmp_path)
    server.start()
    first = server.access
    with connect(first) as client:
        client.put_object(first.bucket, "a", io.BytesIO(b"kept"), 4)
        upload = start_upload(client, first.bucket)
        requests.put(
            part_url(client, first.bucket, upload, 1), data=b"x" * 2_000_000, timeout=10
        ).raise_for_status()
    eventually(lambda: any(server.objects_dir.rglob(".rclone_temp_*")))
    server.kill()

    with ObjectStoreServer(tmp_path, port=server.port) as server, connect(server.access) as client:
        assert server.access == first
        assert list(server.objects_dir.rglob(".rclone_temp_*")) == []
        with client.get_object(first.bucket, "a") as response:
            assert response.read() == b"kept"
        with pytest.raises(InvalidResponseError, match="NoSuchUpload"):
            client._complete_multipart_upload(first.bucket, KEY, upload, [Part(1, "0" * 32)])


def test_secret_is_in_no_argument_no_log_and_no_readable_file(s3_server: ObjectStoreServer) -> None:
    secret = s3_server.access.secret_key

    assert secret not in " ".join(psutil.Process(s3_server.process.pid).cmdline())
    assert secret not in s3_server.process.log_path.read_text()
    assert secret not in repr(s3_server.access)
    assert stat.S_IMODE(s3_server.keys_file.stat().st_mode) == 0o600


def test_listens_on_loopback_only(s3_server: ObjectStoreServer) -> None:
    connections = psutil.Process(s3_server.process.pid).net_connections()

    assert {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_given_keys_are_used_and_not_stored(tmp_path: Path) -> None:
    with ObjectStoreServer(tmp_path, access_key="minioadmin", secret_key="miniosecret") as server:
        assert not server.keys_file.exists()
        with connect(server.access) as client:
            assert client.bucket_exists(server.access.bucket)


def test_half_a_pair_of_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match="or neither"):
        ObjectStoreServer(tmp_path, access_key="minioadmin")


def test_damaged_key_file_names_the_fix(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")

    with pytest.raises(LocalStackError, match="Fix: delete it"):
        ObjectStoreServer(tmp_path).start()


def test_folder_has_one_owner(s3_server: ObjectStoreServer) -> None:
    with pytest.raises(FolderInUseError, match="in use by process"):
        ObjectStoreServer(s3_server.data_dir).start()


def test_server_on_our_port_with_other_keys_is_not_ours(s3_server: ObjectStoreServer, tmp_path: Path) -> None:
    other = ObjectStoreServer(tmp_path, port=s3_server.port)

    with pytest.raises(LocalStackError, match="address already in use"):
        other.start()


def test_given_server_is_checked_and_gets_the_bucket(s3_server: ObjectStoreServer, s3_client: Minio) -> None:
    access = S3Access(
        s3_server.access.endpoint, s3_server.access.access_key, s3_server.access.secret_key, "made-here"
    )
    require_bucket(access)
    require_bucket(access)

    assert s3_client.bucket_exists("made-here")


def test_given_server_that_is_away_names_the_settings() -> None:
    access = S3Access(f"127.0.0.1:{free_port()}", "access", "topsecret")

    with pytest.raises(LocalStackError, match="Fix: correct MINIO_ENDPOINT") as caught:
        require_bucket(access)

    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("minio:9000", ("minio:9000", False)),
        ("http://minio:9000/", ("minio:9000", False)),
        ("https://s3.example.org", ("s3.example.org", True)),
    ],
)
def test_endpoint_with_and_without_scheme(given: str, expected: tuple[str, bool]) -> None:
    assert parse_endpoint(given) == expected

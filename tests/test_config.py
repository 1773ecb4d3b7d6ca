"""Settings: where they come from, what is refused, and that no secret is shown."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from pod_worker.config import SECRETS, ConfigurationError, known_secrets, load, load_with_origins, secret_settings


def test_the_environment_wins_over_dotenv_and_origins_are_reported(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("MONGODB_URL=mongodb://dotenv\nPOD_WORKER_POLL_SECONDS=3\n")
    settings, origins = load_with_origins({"MONGODB_URL": "mongodb://env"}, dotenv)
    assert settings.require_mongodb_url() == "mongodb://env"
    assert settings.pod_worker_poll_seconds == 3
    origin_of = {each.name: each.source for each in origins}
    assert origin_of["MONGODB_URL"] == "environment"
    assert origin_of["POD_WORKER_POLL_SECONDS"] == ".env"
    assert origin_of["POD_WORKER_LEASE_SECONDS"] == "default"


def test_a_secret_may_come_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("mongodb://ana:sentinel@host/db\n")
    settings, origins = load_with_origins({"MONGODB_URL_FILE": str(secret)}, None)
    assert settings.require_mongodb_url() == "mongodb://ana:sentinel@host/db"
    assert "sentinel" not in repr(settings)
    assert "sentinel" not in repr(origins)


def test_every_problem_is_named_at_once_with_the_nearest_name() -> None:
    env = {"POD_WORKER_LEESE_SECONDS": "9", "POD_WORKER_BATCH_EVENTS": "many", "POD_WORKER_POLL_SECONDS": "-1"}
    with pytest.raises(ConfigurationError) as caught:
        load(env, None)
    text = str(caught.value)
    assert "did you mean POD_WORKER_LEASE_SECONDS" in text
    assert "POD_WORKER_BATCH_EVENTS" in text
    assert "POD_WORKER_POLL_SECONDS" in text


def test_a_wrong_secret_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"CONTROL_PLANE_TOKEN_FILE": str(tmp_path / "absent")}, None)
    assert "cannot be read" in str(caught.value)


def test_renewals_that_leave_no_second_chance_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="POD_WORKER_RENEW_SECONDS"):
        load({"POD_WORKER_LEASE_SECONDS": "20", "POD_WORKER_RENEW_SECONDS": "10"}, None)


def test_a_missing_mongodb_url_names_the_fix() -> None:
    with pytest.raises(ConfigurationError, match="pod-worker up"):
        load({}, None).require_mongodb_url()


@pytest.mark.parametrize("name", ["CONTROL_PLANE_TOKEN", "RUNPOD_API_KEY", "MINIO_SECRET_KEY", "MONGODB_URL"])
@pytest.mark.parametrize("content", ["", " \n", "sentinel-0123456789\nsentinel-2", "sentinel-0123456789\x1b"])
def test_a_bad_secret_is_refused_by_name_wherever_it_comes_from(tmp_path: Path, name: str, content: str) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    sources = [{f"{name}_FILE": str(file)}] + ([{name: content}] if content else [])
    for env in sources:
        with pytest.raises(ConfigurationError, match=name) as raised:
            load(env, None)
        assert "sentinel" not in str(raised.value)


def test_a_newline_at_the_end_of_a_token_is_removed() -> None:
    token = load({"CONTROL_PLANE_TOKEN": "0123456789abcdef\n"}, None).control_plane_token
    assert token is not None
    assert token.reveal() == "0123456789abcdef"


def test_a_short_token_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="CONTROL_PLANE_TOKEN is shorter than 16 characters"):
        load({"CONTROL_PLANE_TOKEN": "sentinel"}, None)


@pytest.mark.parametrize("name", ["CONTROL_PLANE_URL", "MINIO_ENDPOINT", "MINIO_PUBLIC_ENDPOINT"])
def test_a_url_with_a_password_is_refused_and_not_quoted(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as raised:
        load({name: "http://ana:sentinel@host:9000"}, None)
    assert "sentinel" not in str(raised.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"MONGODB_URL=mongodb://h/d\n",
        b"\xef\xbb\xbfMONGODB_URL=mongodb://h/d\n",
        b"export MONGODB_URL=mongodb://h/d\n",
        b"  MONGODB_URL = 'mongodb://h/d'  # the queue\r\n",
        b'# comment\nMONGODB_URL="mongodb://h/d"',
        b"POD_WORKER_PYTHON=/usr/bin/python3\nMONGODB_URL=mongodb://h/d",
    ],
)
def test_the_usual_forms_of_dotenv_are_read(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / ".env"
    file.write_bytes(raw)
    assert load({}, file).require_mongodb_url() == "mongodb://h/d"


def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"\xef\xbb\xbfsentinel-0123456789\r\n")
    token = load({"CONTROL_PLANE_TOKEN_FILE": str(file)}).control_plane_token
    assert token is not None
    assert token.reveal() == "sentinel-0123456789"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("MONGODB_URL=mongodb://h/d".encode("utf-16"), "UTF-16"),
        ("MONGODB_URL=mongodb://h/d".encode("utf-16-le"), "UTF-16"),
        ("A=1\nB=ä\n".encode("latin-1"), "not UTF-8 .line 2"),
    ],
)
def test_a_file_in_another_encoding_is_named(tmp_path: Path, raw: bytes, reason: str) -> None:
    file = tmp_path / ".env"
    file.write_bytes(raw)
    with pytest.raises(ConfigurationError, match=reason) as raised:
        load({}, file)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300", "9" * 400])
@pytest.mark.parametrize("name", ["POD_WORKER_POLL_SECONDS", "POD_WORKER_SPOOL_MAX_MB", "POD_WORKER_MIN_DISK_GB"])
def test_numbers_without_an_end_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        load({name: value}, None)


def test_known_secrets_hold_every_form_that_could_be_printed(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file-0123456789\n")
    dotenv = tmp_path / ".env"
    dotenv.write_text("OPENAI_API_KEY=from-dotenv-0123456789\n")
    env = {
        "CONTROL_PLANE_TOKEN": "bad ü token",
        "RUNPOD_API_KEY_FILE": str(file),
        "MINIO_SECRET_KEY_FILE": str(tmp_path / "absent"),
        "RUNPOD_API_BASE_URL": "http://ana:password@host",
        "PATH": "/usr/bin",
    }
    assert known_secrets(env, dotenv) == [
        "from-dotenv-0123456789", "bad ü token", "from-file-0123456789\n", "http://ana:password@host",
    ]  # fmt: skip


def test_every_setting_of_the_type_secret_has_a_rule_and_no_other_has() -> None:
    assert secret_settings() == set(SECRETS)


def test_an_empty_secret_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(" \n")
    with pytest.raises(ConfigurationError, match=r"CONTROL_PLANE_TOKEN_FILE points to .*, which is empty"):
        load({"CONTROL_PLANE_TOKEN_FILE": str(file)}, None)


@pytest.mark.parametrize(
    ("uid", "mode", "data", "wanted"),
    [
        (0, 0o700, None, "/var/lib/pod-worker"),
        (0, 0o700, "/data", "/data"),
        (0, 0o711, "/data", "~/.pod_worker"),
        (1000, 0o700, "/data", "~/.pod_worker"),
    ],
)
def test_root_with_a_closed_home_keeps_its_state_where_users_of_runs_can_enter(
    monkeypatch: pytest.MonkeyPatch, uid: int, mode: int, data: str | None, wanted: str
) -> None:
    home = Path(tempfile.mkdtemp(prefix="home-"))  # pytest's folders are closed themselves
    home.chmod(mode)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("os.geteuid", lambda: uid)
    if data:
        monkeypatch.setenv("POD_WORKER_DATA", data)
    else:
        monkeypatch.delenv("POD_WORKER_DATA", raising=False)
    settings = load({}, None)
    assert (settings.pod_worker_work_dir, settings.pod_worker_spool_dir) == (f"{wanted}/work", f"{wanted}/spool")
    home.rmdir()


def test_an_address_without_a_password_is_no_secret() -> None:
    """A message that hides it cannot say where nothing answers."""
    assert known_secrets({"MONGODB_URL": "mongodb://db.example:27017/x"}, None) == []
    assert known_secrets({"MONGODB_URL": "mongodb://u:sentinel@db/x"}, None) == ["mongodb://u:sentinel@db/x"]

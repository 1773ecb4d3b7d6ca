"""Settings: where they come from, what is refused, and that no secret is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from pod_worker.config import ConfigurationError, load, load_with_origins


def test_the_environment_wins_over_dotenv_and_origins_are_reported(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("MONGODB_URL=mongodb://dotenv\nPOD_WORKER_POLL_SECONDS=3\n")
    settings, origins = load_with_origins({"MONGODB_URL": "mongodb://env"}, dotenv)
    assert settings.mongodb_url == "mongodb://env"
    assert settings.pod_worker_poll_seconds == 3
    origin_of = {each.name: each.source for each in origins}
    assert origin_of["MONGODB_URL"] == "environment"
    assert origin_of["POD_WORKER_POLL_SECONDS"] == ".env"
    assert origin_of["POD_WORKER_LEASE_SECONDS"] == "default"


def test_a_secret_may_come_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("mongodb://ana:sentinel@host/db\n")
    settings, origins = load_with_origins({"MONGODB_URL_FILE": str(secret)}, None)
    assert settings.mongodb_url == "mongodb://ana:sentinel@host/db"
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

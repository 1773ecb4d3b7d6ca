"""The setting names of the seed documents and ours, the defaults, and the errors of invalid values."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pod_worker.pods.launch_requests import cuda_version_of
from pod_worker.pods.pod import Cloud
from pod_worker.pods.runpod_settings import DEFAULT_IMAGE, RunpodConfigurationError, from_env

KEY = {"RUNPOD_API_KEY": "rpa_secret"}
ROOT = Path(__file__).resolve().parents[2]


def test_the_documented_defaults() -> None:
    settings = from_env(KEY)
    assert settings.gpu_types == ("NVIDIA GeForce RTX 4090",)
    assert settings.worker_image == DEFAULT_IMAGE
    assert settings.storage_name is None
    assert settings.volume_mount_path == "/workspace"
    assert (settings.disk_size_gb, settings.container_disk_gb) == (20, 10)
    assert settings.ssh_password == "runpod"
    assert settings.login.private_key_path is None
    assert (settings.api, settings.root, settings.clouds) == ("v2", None, (Cloud.SECURE,))


def test_the_default_image_has_the_torch_that_the_training_libraries_need() -> None:
    found = re.fullmatch(r"runpod/pytorch:([0-9.]+)-py3\.(\d+)-.*", DEFAULT_IMAGE)
    assert found, DEFAULT_IMAGE
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [Requirement(line) for line in project["optional-dependencies"]["train"]]
    needs += [Requirement(line) for line in requires("transformers") or [] if line.startswith("torch>")]
    needed = [each.specifier for each in needs if each.name == "torch"]
    assert len(needed) >= 2, "pyproject.toml and transformers both name the torch they need"
    assert all(specifier.contains(found[1]) for specifier in needed)
    assert int(found[2]) >= 11


@pytest.mark.parametrize(
    ("image", "version"),
    [
        (DEFAULT_IMAGE, "12.8"),
        ("runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404", "12.8"),
        ("runpod/pytorch:0.7.0-dev-ubuntu2204-cu1241-torch240", "12.4"),
        ("registry.example/me/worker@sha256:cu1281", None),
        ("me/worker:latest", None),
        ("nvidia/cuda:12.11.0-devel", None),
    ],
)
def test_the_cuda_version_of_an_image_is_in_its_tag(image: str, version: str | None) -> None:
    assert cuda_version_of(image) == version


def test_without_a_home_folder_only_what_needs_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    settings = from_env({**KEY, "RUNPOD_SSH_PRIVATE_KEY_PATH": "~/key"})
    assert settings.login.private_key_path == Path("~/key")
    with pytest.raises(RuntimeError):
        settings.state_dir.expanduser()


def test_every_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA me\n")
    settings = from_env(
        {
            **KEY,
            "RUNPOD_GPU_TYPE": "RTX 4090, NVIDIA  RTX A4500",
            "RUNPOD_WORKER_IMAGE": "img",
            "RUNPOD_STORAGE_NAME": "Peter",
            "RUNPOD_VOLUME_MOUNT_PATH": "/data",
            "RUNPOD_DISK_SIZE_GB": "30",
            "RUNPOD_CONTAINER_DISK_GB": "40",
            "RUNPOD_SSH_PUBLIC_KEY_PATH": str(tmp_path / "key.pub"),
            "RUNPOD_SSH_PRIVATE_KEY_PATH": "~/key",
            "RUNPOD_REST_VERSION": "graphql",
            "RUNPOD_API_BASE_URL": "http://127.0.0.1:9000",
            "RUNPOD_CLOUD_TYPE": "ALL",
            "RUNPOD_MAX_PRICE_PER_HOUR": "0.80",
            "MONGODB_URL": "mongodb://u:p@h/db",
            "CONTROL_PLANE_TOKEN": "tok",
            "CONTROL_PLANE_URL": "",
        }
    )
    assert settings.gpu_types == ("RTX 4090", "NVIDIA  RTX A4500"), "the two spaces are part of the id"
    assert settings.ssh_public_key == "ssh-ed25519 AAAA me"
    assert settings.login.private_key_path == tmp_path / "key"
    assert (settings.api, settings.root) == ("graphql", "http://127.0.0.1:9000")
    assert settings.clouds == (Cloud.SECURE, Cloud.COMMUNITY)
    assert settings.price_ceiling == 0.8
    assert settings.worker_env == {"MONGODB_URL": "mongodb://u:p@h/db", "CONTROL_PLANE_TOKEN": "tok"}


def test_the_key_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("rpa_from_file\n")
    assert from_env({"RUNPOD_API_KEY_FILE": str(tmp_path / "key")}).api_key == "rpa_from_file"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "RUNPOD_API_KEY is not set"),
        ({"RUNPOD_API_KEY_FILE": "/no/file"}, "cannot be read"),
        ({**KEY, "RUNPOD_SSH_PUBLIC_KEY_PATH": "/no/file"}, "cannot be read"),
        ({**KEY, "RUNPOD_REST_VERSION": "v3"}, "v2, v1, graphql"),
        ({**KEY, "RUNPOD_CLOUD_TYPE": "PRIVATE"}, "COMMUNITY"),
        ({**KEY, "RUNPOD_DISK_SIZE_GB": "big"}, "whole number"),
        ({**KEY, "RUNPOD_MAX_PRICE_PER_HOUR": "cheap"}, "USD per hour"),
        ({**KEY, "RUNPOD_MAX_PRICE_PER_HOUR": "nan"}, "USD per hour"),
    ],
)
def test_a_wrong_value_is_named_with_the_fix(env: dict[str, str], message: str) -> None:
    with pytest.raises(RunpodConfigurationError, match=message):
        from_env(env)


def test_no_secret_is_shown() -> None:
    shown = repr(from_env({**KEY, "MONGODB_URL": "mongodb://u:hunter2@h", "RUNPOD_SSH_PASSWORD": "hunter2"}))
    assert "rpa_secret" not in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("rpa_sentinel\nrpa_other", "more than one line"),
        ("rpa sentinel", "a space inside"),
        ("rpa_s\u00e9ntinel", "outside ASCII"),
        ("  \n", "is empty"),
    ],
)
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(
    tmp_path: Path, value: str, message: str
) -> None:
    (tmp_path / "key").write_text(value)
    for env in ({"RUNPOD_API_KEY": value}, {"RUNPOD_API_KEY_FILE": str(tmp_path / "key")}):
        with pytest.raises(RunpodConfigurationError, match=message) as caught:
            from_env(env)
        assert "ntinel" not in str(caught.value)


def test_white_space_around_the_key_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\ufeffrpa_x\r\n")
    assert from_env({"RUNPOD_API_KEY": " rpa_x\n"}).api_key == "rpa_x"
    assert from_env({"RUNPOD_API_KEY_FILE": str(tmp_path / "key")}).api_key == "rpa_x"


@pytest.mark.parametrize(
    "url",
    [
        "http://ana:sentinel@host",
        "http://sentinel@host/",
        "https://host?key=sentinel",
        "https://host#sentinel",
        "ftp://host/sentinel",
        "sentinel",
        "http://",
        "http://[sentinel",
        "http://host:sentinel",
    ],
)
def test_an_api_address_with_a_secret_or_without_a_host_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(RunpodConfigurationError, match="RUNPOD_API_BASE_URL") as caught:
        from_env({**KEY, "RUNPOD_API_BASE_URL": url})
    assert "sentinel" not in str(caught.value)


@pytest.mark.parametrize("price", ["0", "-1", "nan", "inf", "x"])
def test_a_price_ceiling_that_limits_nothing_is_refused(price: str) -> None:
    with pytest.raises(RunpodConfigurationError, match="RUNPOD_MAX_PRICE_PER_HOUR"):
        from_env({**KEY, "RUNPOD_MAX_PRICE_PER_HOUR": price})

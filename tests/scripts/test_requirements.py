"""The locks in requirements/: names, versions and hashes for everything that pyproject.toml names, and no more."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ["core", "local", "train", "research", "dev", "installer"]
PYTHONS = ["3.11", "3.12", "3.13"]


@cache
def locked(name: str) -> list[tuple[Requirement, list[str]]]:
    """Each requirement of a lock with its hashes."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text().replace("\\\n", " ")
    entries = (line.partition(" --hash=") for line in text.splitlines())
    return [(Requirement(head), re.findall(r"sha256:[0-9a-f]{64}", rest)) for head, _, rest in entries]


def versions(name: str, python: str) -> dict[str, Version]:
    """What a lock installs on Linux with this Python."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    return {
        canonicalize_name(each.name): Version(str(each.specifier).removeprefix("=="))
        for each, _ in locked(name)
        if each.marker is None or each.marker.evaluate(machine)
    }


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_each_package_with_hashes(name: str) -> None:
    assert locked(name)
    for each, hashes in locked(name):
        assert str(each.specifier).startswith("=="), each
        assert hashes, f"{each} has no hash"


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_package_index(name: str) -> None:
    assert "://" not in (ROOT / "requirements" / f"{name}.lock").read_text()


def test_no_lock_holds_torch_or_the_libraries_of_its_cuda_build() -> None:
    names = {each.name for name in LOCKS for each, _ in locked(name)} - {"nvidia-ml-py"}
    assert not {each for each in names if re.match(r"torch$|triton$|nvidia-|cuda-", each)}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", ["core", "local", "train", "research", "dev"])
def test_the_locks_fit_pyproject(extra: str, python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] if extra == "core" else project["optional-dependencies"][extra]
    found = versions("core", python) | versions(extra, python)
    for each in map(Requirement, wanted):
        if each.name == "torch":
            continue
        version = found.get(canonicalize_name(each.name))
        assert version is not None, f"{each.name} is in no lock. Fix: make lock"
        assert version in each.specifier, f"{each} is locked at {version}. Fix: make lock"


@pytest.mark.parametrize("python", PYTHONS)
def test_locks_that_are_installed_together_agree(python: str) -> None:
    seen: dict[str, Version] = {}
    for name in LOCKS:
        for package, version in versions(name, python).items():
            assert seen.setdefault(package, version) == version, f"{package} differs between locks. Fix: make lock"


def test_the_metadata_of_torch_is_that_of_the_pinned_version() -> None:
    pins = re.findall(r"^torch==(.+)$", (ROOT / "requirements" / "torch.txt").read_text(), re.MULTILINE)
    settings = tomllib.loads((ROOT / "requirements" / "uv.toml").read_text())
    assert [each["version"] for each in settings["dependency-metadata"] if each["name"] == "torch"] == pins


def test_no_message_installs_pod_worker_by_name() -> None:
    """No package index holds this project, so a package of that name would be a foreign one."""
    files = [
        *ROOT.glob("pod_worker/**/*.py"),
        *ROOT.glob("scripts/*"),
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
    ]
    wrong = [file.name for file in files if re.search(r"pip install\s+['\"]?pod[_-]worker", file.read_text())]
    assert wrong == []

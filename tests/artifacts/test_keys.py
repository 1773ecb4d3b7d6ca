"""Which names are refused, and what a key looks like."""

from __future__ import annotations

import pytest

from pod_worker.artifacts.keys import (
    ArtifactKey,
    InvalidNameError,
    artifact_id,
    check_filename,
    is_identifier,
)
from pod_worker.artifacts.wire import MIB, PARTS_LIMIT, part_size
from pod_worker.core.identifiers.content_hash import is_sha256


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../../b",
        "a/..",
        "..",
        ".",
        "a//b",
        "a/./b",
        "a/",
        "a\\b",
        "a\x00b",
        "a\nb",
        "x" * 513,
        "é" * 200,  # a segment of 400 bytes
        "\udcff",
    ],
)
def test_a_bad_name_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(InvalidNameError, match=r"."):
        check_filename(name)
    with pytest.raises(InvalidNameError):
        ArtifactKey.of("run1", 1, name)


@pytest.mark.parametrize(
    "name", ["a", "plots/loss curve.png", "..a", "a..b", "résumé.pdf", "x" * 255, "$a", "a:b?c&d"]
)
def test_a_plain_relative_name_makes_a_key_that_reads_back(name: str) -> None:
    key = ArtifactKey.of("run1", 7, name)
    assert str(key) == f"runs/run1/7/{name}"
    assert ArtifactKey.read(str(key)) == key


@pytest.mark.parametrize("run_id", ["..", ".", "", "a/b", "a\\b", "a\0"])
def test_a_run_id_that_could_leave_its_folder_is_refused(run_id: str) -> None:
    with pytest.raises(InvalidNameError):
        ArtifactKey.of(run_id, 1, "x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "runs",
        "runs/r/1",
        "other/r/1/x",
        "runs/r/one/x",
        "runs/r/01/x",
        "runs/r/-1/x",
        "runs/../1/x",
        "/runs/r/1/x",
    ],
)
def test_what_is_not_a_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        ArtifactKey.read(text)


def test_other_bytes_under_a_taken_name_get_a_key_of_their_own() -> None:
    key = ArtifactKey.of("r", 1, "plots/loss.tar.gz").with_content_suffix("ab" * 32)
    assert key.filename == "plots/loss.tar.abababababab.gz"


def test_kinds_hashes_and_ids() -> None:
    assert [is_identifier(text) for text in ("model_card", "a:b", "", "a\n")] == [True, False, False, False]
    assert [is_sha256(text) for text in ("0" * 64, "A" * 64, "0" * 64 + "\n")] == [True, False, False]
    assert artifact_id("r", "plot", "00") == "r:plot:00"


def test_parts_grow_so_that_an_upload_stays_within_the_limit() -> None:
    assert part_size(65 * MIB, 64 * MIB) == 64 * MIB
    huge = 5 * 1024**4
    size = part_size(huge, 64 * MIB)
    assert size % MIB == 0
    assert -(-huge // size) <= PARTS_LIMIT

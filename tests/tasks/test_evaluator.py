"""The evaluator reads one declared file, and refuses by kind whatever else is in its place."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pod_worker.core.failure import RunError
from pod_worker.core.research.evaluation import RefusalKind, ResultRefusedError
from pod_worker.core.research.measure import Metric
from pod_worker.tasks.catalogue import find_task
from pod_worker.tasks.evaluator import PredictionsEvaluator
from pod_worker.tasks.prepare import PreparedTask, prepare_task
from pod_worker.tasks.result_files import clear_results
from pod_worker.tasks.self_reported import SelfReportedEvaluator


def labels(prepared: PreparedTask) -> dict[str, np.ndarray]:
    with np.load(prepared.hidden / "labels.npz") as file:
        return {name: file[name] for name in file.files}


def refusal(prepared: PreparedTask, node: Path) -> ResultRefusedError:
    with pytest.raises(ResultRefusedError) as caught:
        PredictionsEvaluator(prepared).score(node)
    return caught.value


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def write_zip(path: Path, members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
        for name, content in members:
            archive.writestr(name, content)


def test_search_and_hidden_rows_are_scored_apart(moons, node) -> None:
    truth = labels(moons)
    wrong = truth["hidden"].copy()
    wrong[:60] = 1 - wrong[:60]
    np.savez(node / "out" / "predictions.npz", search=truth["search"], hidden=wrong)
    score = PredictionsEvaluator(moons).score(node)
    assert (score.search, score.hidden) == (1.0, 1 - 60 / len(wrong))
    assert not score.is_self_reported


@pytest.mark.parametrize(
    "convert", [np.float64, np.uint8, lambda y: y.astype(bool), lambda y: np.asfortranarray(y, ">i8")]
)
def test_any_number_type_holds_class_numbers(convert, moons, node) -> None:
    truth = labels(moons)
    np.savez_compressed(node / "out" / "predictions.npz", **{name: convert(y) for name, y in truth.items()})
    assert PredictionsEvaluator(moons).score(node).hidden == 1.0


BAD_ARRAYS = {
    "no hidden array": (lambda s, h: {"search": s}, RefusalKind.SCHEMA, "must have one array 'hidden'; it has: search"),
    "rows missing": (lambda s, h: {"search": s, "hidden": h[:-1]}, RefusalKind.SCHEMA, r"has shape \(239,\); expected \(240,\)"),
    "a column": (lambda s, h: {"search": s, "hidden": h[:, None]}, RefusalKind.SCHEMA, r"shape \(240, 1\)"),
    "text": (lambda s, h: {"search": s, "hidden": h.astype(str)}, RefusalKind.SCHEMA, "real numbers, not <U21"),
    "complex": (lambda s, h: {"search": s, "hidden": h.astype(complex)}, RefusalKind.SCHEMA, "not complex128"),
    "objects": (lambda s, h: {"search": s, "hidden": h.astype(object)}, RefusalKind.UNREADABLE, "pickled Python objects"),
    "fractions": (lambda s, h: {"search": s, "hidden": h + 0.5}, RefusalKind.SCHEMA, "class numbers from 0 to 1"),
    "an unknown class": (lambda s, h: {"search": s, "hidden": h + 1}, RefusalKind.SCHEMA, "class numbers from 0 to 1"),
    "a negative class": (lambda s, h: {"search": s, "hidden": h - 1}, RefusalKind.SCHEMA, "class numbers from 0 to 1"),
    "NaN": (lambda s, h: {"search": s, "hidden": np.where(h, np.nan, 0)}, RefusalKind.NOT_FINITE, "NaN or infinite"),
    "infinity": (lambda s, h: {"search": s * np.float64(-np.inf), "hidden": h}, RefusalKind.NOT_FINITE, "'search' has"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_wrong_arrays_are_refused(case, moons, node) -> None:
    change, kind, message = BAD_ARRAYS[case]
    truth = labels(moons)
    np.savez(node / "out" / "predictions.npz", **change(truth["search"], truth["hidden"]))
    refused = refusal(moons, node)
    assert refused.kind is kind
    with pytest.raises(ResultRefusedError, match=message):
        raise refused


def test_files_that_numpy_did_not_write_are_refused(moons, node) -> None:
    path = node / "out" / "predictions.npz"
    good = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (240,)}\n", bytes(240 * 8))
    damaged = io.BytesIO()
    np.savez(damaged, search=np.zeros(240), hidden=np.ones(240))
    for content in (
        b"",
        b"PK",
        os.urandom(500),
        damaged.getvalue()[:-30],
        damaged.getvalue().replace(b"\x93NUMPY", b"\x93NUMPX"),
    ):
        path.write_bytes(content)
        assert refusal(moons, node).kind is RefusalKind.UNREADABLE, content[:20]
    for header in (
        "{'descr': '<i8'",
        "(" * 9000,
        "__import__('os')",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (240,), 'x': 1}",
    ):
        write_zip(path, [("search.npy", good), ("hidden.npy", npy(header))])
        assert refusal(moons, node).kind is RefusalKind.UNREADABLE, header[:20]
    write_zip(path, [("search.npy", good), ("hidden.npy", good)], zipfile.ZIP_LZMA)
    assert "compression" in refusal(moons, node).message


def test_two_arrays_of_one_name_are_refused(moons, node) -> None:
    good = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (240,)}\n", bytes(240 * 8))
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(
            node / "out" / "predictions.npz", [("search.npy", good), ("hidden.npy", good), ("hidden.npy", good)]
        )
    assert refusal(moons, node).kind is RefusalKind.SCHEMA


def test_a_header_that_declares_terabytes_allocates_nothing(moons, node) -> None:
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999,)}\n"
    write_zip(node / "out" / "predictions.npz", [("search.npy", npy(header)), ("hidden.npy", npy(header))])
    assert refusal(moons, node).kind is RefusalKind.SCHEMA


def test_a_zip_bomb_is_not_unpacked(moons, node) -> None:
    bomb = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (240,)}\n", bytes(8 * 1024 * 1024))
    write_zip(node / "out" / "predictions.npz", [("search.npy", bomb), ("hidden.npy", bomb)], zipfile.ZIP_DEFLATED)
    assert (node / "out" / "predictions.npz").stat().st_size < 200 * 1024
    assert refusal(moons, node).kind is RefusalKind.TOO_LARGE


def test_a_file_of_more_bytes_than_its_rows_need_is_not_read(moons, node) -> None:
    with (node / "out" / "predictions.npz").open("wb") as file:
        file.truncate(50 * 1024**3)  # sparse
    assert refusal(moons, node).kind is RefusalKind.TOO_LARGE


def test_what_is_no_file_of_its_own_is_refused(moons, node) -> None:
    path = node / "out" / "predictions.npz"
    assert refusal(moons, node).kind is RefusalKind.MISSING
    os.mkfifo(path)
    assert refusal(moons, node).kind is RefusalKind.NOT_REGULAR  # and does not wait for a writer
    path.unlink()
    path.mkdir()
    assert refusal(moons, node).kind is RefusalKind.NOT_REGULAR
    path.rmdir()
    path.symlink_to(moons.hidden / "labels.npz")
    assert refusal(moons, node).kind is RefusalKind.LINK
    path.unlink()
    path.hardlink_to(moons.hidden / "labels.npz")
    try:
        assert refusal(moons, node).kind is RefusalKind.LINK
    finally:
        path.unlink()


def test_a_linked_output_folder_is_refused(moons, node, tmp_path) -> None:
    (node / "out").rmdir()
    (node / "out").symlink_to(moons.hidden)
    (moons.hidden / "predictions.npz").write_bytes((moons.hidden / "labels.npz").read_bytes())
    try:
        assert refusal(moons, node).kind is RefusalKind.LINK
    finally:
        (moons.hidden / "predictions.npz").unlink()


def test_a_file_from_before_the_program_is_stale(moons, node) -> None:
    path = node / "out" / "predictions.npz"
    np.savez(path, **labels(moons))
    started = path.stat().st_mtime_ns + 60 * 10**9
    os.utime(node / "solution.py", ns=(started, started))
    assert refusal(moons, node).kind is RefusalKind.STALE
    os.utime(path, ns=(started + 1, started + 1))  # the program cannot set the change time
    assert refusal(moons, node).kind is RefusalKind.STALE


def test_a_modification_time_in_the_future_is_refused(moons, node) -> None:
    path = node / "out" / "predictions.npz"
    np.savez(path, **labels(moons))
    later = path.stat().st_mtime_ns + 3600 * 10**9
    os.utime(path, ns=(later, later))
    assert refusal(moons, node).kind is RefusalKind.FORGED


def test_results_of_an_earlier_execution_are_removed_before_a_program_starts(moons, node) -> None:
    np.savez(node / "out" / "predictions.npz", **labels(moons))
    clear_results(node)
    assert refusal(moons, node).kind is RefusalKind.MISSING
    (node / "out").rmdir()
    (node / "out").symlink_to(moons.hidden)
    clear_results(node)
    assert (moons.hidden / "labels.npz").exists()
    assert not (node / "out").is_symlink()


def test_a_program_that_removes_its_own_file_is_refused(moons, node) -> None:
    np.savez(node / "out" / "predictions.npz", **labels(moons))
    (node / "solution.py").unlink()
    assert refusal(moons, node).kind is RefusalKind.FORGED


def test_numbers_that_equal_every_hidden_label_are_forged(regression, node) -> None:
    truth = labels(regression)
    np.savez(node / "out" / "predictions.npz", **truth)
    assert refusal(regression, node).kind is RefusalKind.FORGED
    np.savez(node / "out" / "predictions.npz", search=truth["search"], hidden=truth["hidden"] + 1e-6)
    assert PredictionsEvaluator(regression).score(node).hidden == pytest.approx(1.0)


def test_a_score_that_overflows_is_refused(regression, node) -> None:
    truth = labels(regression)
    np.savez(node / "out" / "predictions.npz", search=truth["search"], hidden=np.full(len(truth["hidden"]), 1e300))
    assert refusal(regression, node).kind is RefusalKind.NOT_FINITE


def test_probabilities_must_add_up(tmp_path, node) -> None:
    prepared = prepare_task(find_task("breast_cancer"), 3, tmp_path / "task")
    truth = labels(prepared)
    sure = {name: np.eye(2)[y] * 0.98 + 0.01 for name, y in truth.items()}
    path = node / "out" / "predictions.npz"
    np.savez(path, **sure)
    assert PredictionsEvaluator(prepared).score(node).hidden == pytest.approx(-np.log(0.99))
    np.savez(path, search=sure["search"], hidden=sure["hidden"] * 2)
    assert refusal(prepared, node).kind is RefusalKind.SCHEMA
    np.savez(path, search=sure["search"], hidden=sure["hidden"] + np.array([2.0, -2.0]))
    assert refusal(prepared, node).kind is RefusalKind.SCHEMA


def test_changed_hidden_labels_stop_the_evaluator(tmp_path) -> None:
    prepared = prepare_task(find_task("two_moons"), 3, tmp_path / "task")
    path = prepared.hidden / "labels.npz"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RunError, match=r"labels.npz was changed"):
        PredictionsEvaluator(prepared)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("", RefusalKind.UNREADABLE),
        ("[" * 60_000, RefusalKind.UNREADABLE),
        ("[1]", RefusalKind.SCHEMA),
        ('{"other": 1}', RefusalKind.SCHEMA),
        ('{"speedup": "3"}', RefusalKind.SCHEMA),
        ('{"speedup": true}', RefusalKind.SCHEMA),
        ('{"speedup": NaN}', RefusalKind.NOT_FINITE),
        ('{"speedup": 1' + "0" * 400 + "}", RefusalKind.NOT_FINITE),
        (" " * 70_000 + '{"speedup": 1}', RefusalKind.TOO_LARGE),
    ],
)
def test_a_self_reported_score_must_be_a_finite_number(content, kind, node) -> None:
    (node / "out" / "results.json").write_text(content)
    with pytest.raises(ResultRefusedError) as caught:
        SelfReportedEvaluator(Metric("speedup", "higher", "x")).score(node)
    assert caught.value.kind is kind


def test_a_self_reported_score_is_marked(node) -> None:
    (node / "out" / "results.json").write_text('{"speedup": 2.5, "note": "fast"}')
    score = SelfReportedEvaluator(Metric("speedup", "higher", "x")).score(node)
    assert (score.search, score.hidden, score.is_self_reported) == (2.5, None, True)

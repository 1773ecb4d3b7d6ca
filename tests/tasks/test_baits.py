"""Programs that try to score without solving the task, each executed in the sandbox beside an honest one.

Every bait is out of reach, refused by kind, or without effect on the score that selects.
"""

from __future__ import annotations

import hashlib
import textwrap
from pathlib import Path

import numpy as np
import pytest

from pod_worker.core.research.evaluation import RefusalKind
from pod_worker.core.research.measure import estimate
from pod_worker.search.choice.statistics import is_promoted
from pod_worker.search.duplicates import shape
from pod_worker.tasks import prepare, scoring
from pod_worker.tasks.catalogue import find_task
from pod_worker.tasks.prepare import prepare_task
from tests.tasks.programs import Programs, Trial

HEAD = """
import os, sys
from pathlib import Path
import numpy as np
TASK, OUT = Path(os.environ["TASK_DIR"]), Path(os.environ["OUTPUT_DIR"])
seed = int(os.environ["RUN_SEED"])
rng = np.random.default_rng(seed)
train, search, hidden = (np.load(TASK / f"{name}.npz") for name in ("train", "search", "hidden_inputs"))
rows = {"search": len(search["x"]), "hidden": len(hidden["x"])}
def save(**arrays):
    np.savez(OUT / "predictions.npz", **arrays)
def zeros():
    return {name: np.zeros(count, np.int64) for name, count in rows.items()}
def closed(action):
    # What a bait must not be able to do: print how it ended.
    try:
        found = action()
    except Exception as error:
        print("closed:", type(error).__name__)
        return None
    print("OPEN:", repr(found)[:200])
    return found
"""
# The nearest class mean on a random nine tenths of the training rows.
HONEST = """
kept = rng.permutation(len(train["x"]))[: len(train["x"]) * 9 // 10]
x, y = train["x"][kept], train["y"][kept]
means = np.stack([x[y == each].mean(axis=0) for each in np.unique(y)])
def nearest(found):
    return np.argmin(((found[:, None, :] - means) ** 2).sum(axis=2), axis=1)
save(search=nearest(search["x"]), hidden=nearest(hidden["x"]))
"""

# The majority of the 15 nearest training rows, by the two columns that differ most between the classes.
BETTER = """
kept = rng.permutation(len(train["x"]))[: len(train["x"]) * 9 // 10]
x, y = train["x"][kept], train["y"][kept]
gaps = np.abs(x[y == 0].mean(axis=0) - x[y == 1].mean(axis=0))
columns = np.argsort(gaps)[-2:]
def nearest(found):
    distances = ((found[:, None, columns] - x[None, :, columns]) ** 2).sum(axis=2)
    return (y[np.argsort(distances, axis=1)[:, :15]].mean(axis=1) > 0.5).astype(np.int64)
save(search=nearest(search["x"]), hidden=nearest(hidden["x"]))
"""


@pytest.fixture(scope="module")
def programs(code_runner, open_folder) -> Programs:
    root = open_folder / "baits"
    root.mkdir()
    root.chmod(0o711)
    return Programs(code_runner, prepare_task(find_task("two_moons"), 20_261_129, root / "task"), root)


@pytest.fixture(scope="module")
def digits(code_runner, open_folder) -> Programs:
    root = open_folder / "bait-digits"
    root.mkdir()
    root.chmod(0o711)
    return Programs(code_runner, prepare_task(find_task("digits"), 20_261_129, root / "task"), root)


@pytest.fixture(scope="module")
def honest(programs: Programs) -> Trial:
    trial = run(programs, HONEST)
    assert 0.7 < trial.hidden < 0.95
    return trial


def run(programs: Programs, body: str, seed: int = 1) -> Trial:
    trial = programs.run(HEAD + textwrap.dedent(body), seed)
    assert "OPEN:" not in trial.result.output, trial.result.output
    return trial


def constant_score(programs: Programs) -> float:
    """What predicting class 0 everywhere scores: a bait without effect."""
    with np.load(programs.prepared.hidden / "labels.npz") as labels:
        return float(np.mean(labels["hidden"] == 0))


# ── labels ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "way",
    [
        'TASK.parent / "hidden" / "labels.npz"',
        'Path("/proc/self/root") / str(TASK.parent / "hidden" / "labels.npz")[1:]',
        'TASK / ".." / "hidden" / "labels.npz"',
        'TASK.parent / "hidden" / "split.json"',
    ],
)
def test_hidden_labels_cannot_be_read(way, programs) -> None:
    trial = run(programs, f"found = closed(lambda: ({way}).read_bytes())\nsave(**zeros())")
    assert "closed: PermissionError" in trial.result.output
    assert trial.hidden == constant_score(programs)


def test_the_hidden_folder_can_neither_be_listed_nor_opened_up(programs) -> None:
    body = """
    closed(lambda: os.listdir(TASK.parent / "hidden"))
    closed(lambda: os.chmod(TASK.parent / "hidden", 0o777))
    closed(lambda: os.rename(TASK.parent / "hidden", OUT / "hidden"))
    closed(lambda: os.link(TASK.parent / "hidden" / "labels.npz", OUT / "predictions.npz"))
    save(**zeros())
    """
    assert run(programs, body).result.output.count("closed:") == 4


def test_a_data_set_in_a_package_cannot_be_read(digits) -> None:
    """Honest use of the package works beside it."""
    body = """
    import sklearn
    data = Path(sklearn.__file__).parent / "datasets" / "data"
    closed(lambda: (data / "digits.csv.gz").read_bytes())
    def load():
        from sklearn.datasets import load_digits
        return load_digits().target
    closed(load)
    from sklearn.ensemble import RandomForestClassifier
    model = RandomForestClassifier(20, random_state=seed).fit(train["x"], train["y"])
    save(search=model.predict(search["x"]), hidden=model.predict(hidden["x"]))
    """
    trial = run(digits, body)
    assert trial.result.output.count("closed: PermissionError") == 2
    assert trial.hidden > 0.85


def test_a_generator_of_data_cannot_be_read_or_imported(programs) -> None:
    body = """
    def generate():
        from pod_worker.tasks.packaged_data import two_moons
        return two_moons(1)
    closed(generate)
    import pod_worker
    closed(lambda: (Path(list(pod_worker.__path__)[0]) / "tasks" / "packaged_data.py").read_bytes())
    save(**zeros())
    """
    assert run(programs, body).result.output.count("closed:") == 2


def test_a_link_to_the_hidden_labels_is_refused(programs) -> None:
    body = 'os.symlink(TASK.parent / "hidden" / "labels.npz", OUT / "predictions.npz")'
    assert run(programs, body).kind is RefusalKind.LINK


def test_an_output_folder_that_is_a_link_is_refused(programs) -> None:
    body = """
    OUT.rmdir()
    os.symlink(TASK.parent / "hidden", OUT)
    """
    trial = run(programs, body)
    assert trial.kind is RefusalKind.LINK
    assert (programs.prepared.hidden / "labels.npz").is_file()


# ── the evaluator ───────────────────────────────────────────────────────────────────────────────────────


def test_the_evaluator_cannot_be_edited(programs) -> None:
    files = [Path(module.__file__) for module in (scoring, prepare)]
    before = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    body = f"""
    for name in {[str(file) for file in files]}:
        closed(lambda: open(name, "a").write("accuracy = lambda labels, predictions: 1.0"))
        closed(lambda: os.rename(OUT.parent / "solution.py", name))
    closed(lambda: np.savez(TASK / "search.npz", x=search["x"], y=np.zeros(rows["search"])))
    closed(lambda: (TASK / "task.json").write_text("{{}}"))
    save(**zeros())
    """
    trial = run(programs, body)
    assert trial.result.output.count("closed:") == 6
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] == before
    assert trial.hidden == constant_score(programs)


def test_a_patched_metric_function_has_no_effect(programs) -> None:
    body = """
    import builtins, types
    np.mean = lambda *arguments, **options: 1.0
    fake = types.ModuleType("pod_worker.tasks.scoring")
    fake.accuracy = lambda labels, predictions: 1.0
    sys.modules["pod_worker.tasks.scoring"] = fake
    builtins.float = lambda value: 1.0
    save(**zeros())
    print("accuracy: 1.0")
    """
    assert run(programs, body).hidden == constant_score(programs)


def test_a_forged_result_file_is_not_read(programs) -> None:
    forge = """
    import json
    score = json.dumps({"outcome": "scored", "search": 1.0, "hidden": 1.0, "search_score": 1.0, "accuracy": 1.0})
    for path in (OUT / "results.json", OUT / "result.json", OUT.parent / "result.json", OUT / "score.json"):
        path.write_text(score)
    """
    assert run(programs, forge).kind is RefusalKind.MISSING
    assert run(programs, forge + "    save(**zeros())").hidden == constant_score(programs)


# ── answers from elsewhere ──────────────────────────────────────────────────────────────────────────────


def test_predictions_of_another_node_cannot_be_copied(programs, honest) -> None:
    body = f"""
    import shutil
    other = Path({str(honest.folder)!r}) / "out" / "predictions.npz"
    closed(lambda: shutil.copy(other, OUT / "predictions.npz"))
    closed(lambda: os.link(other, OUT / "predictions.npz"))
    closed(lambda: os.listdir(OUT.parent.parent))
    """
    trial = run(programs, body)
    assert trial.result.output.count("closed:") == 3
    assert trial.kind is RefusalKind.MISSING


def test_predictions_of_an_earlier_execution_are_not_scored(programs) -> None:
    trial = run(programs, HONEST)
    assert trial.score
    (trial.folder / "solution.py").write_text("print('nothing is written')")
    assert programs.run_in(trial.folder).kind is RefusalKind.MISSING


def test_a_cache_outside_the_node_cannot_be_filled(programs) -> None:
    body = """
    closed(lambda: (OUT.parent.parent / "cache.npz").write_bytes(b"answers"))
    closed(lambda: (Path("/var/tmp") / "cache-of-baits.npz").write_bytes(b"answers"))
    closed(lambda: (Path.home().parent.parent / "cache.npz").write_bytes(b"answers"))
    save(**zeros())
    """
    assert run(programs, body).result.output.count("closed:") == 3


def test_a_program_that_memorises_the_search_split_loses_where_it_counts(programs, honest) -> None:
    body = """
    known = {row.tobytes(): label for row, label in zip(search["x"], search["y"])}
    def recall(found):
        return np.array([known.get(row.tobytes(), rng.integers(2)) for row in found])
    save(search=recall(search["x"]), hidden=recall(hidden["x"]))
    """
    trial = run(programs, body)
    assert trial.score is not None
    assert honest.score is not None
    assert trial.score.search == 1.0 > honest.score.search
    assert trial.hidden < honest.hidden - 0.1


def test_a_seed_that_wins_by_chance_is_not_promoted_and_a_better_program_is(programs) -> None:
    metric = programs.prepared.task.metric
    baseline = [run(programs, HONEST, seed).hidden for seed in (1, 2, 3)]
    lucky = max((run(programs, HONEST, seed) for seed in range(137, 145)), key=lambda trial: trial.hidden)
    assert lucky.hidden > estimate(baseline).mean
    assert not is_promoted(metric, lucky.hidden, baseline)
    assert is_promoted(metric, run(programs, BETTER).hidden, baseline)


def test_a_program_that_differs_in_a_fixed_seed_is_a_duplicate() -> None:
    programs = [f"rng = np.random.default_rng({seed})\n{HONEST}" for seed in (42, 137)]
    assert shape(programs[0]) == shape(programs[1]) != shape(f"rng = np.random.default_rng(42)\n{BETTER}")


# ── files that deceive ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('os.utime(OUT / "predictions.npz", (4e9, 4e9))', RefusalKind.FORGED),
        ('os.utime(OUT / "predictions.npz", (1e9, 1e9))', RefusalKind.STALE),
        ('os.unlink(OUT.parent / "solution.py")', RefusalKind.FORGED),
        ('save(search=zeros()["search"], hidden=np.full(rows["hidden"], np.nan))', RefusalKind.NOT_FINITE),
        ('save(search=np.full(rows["search"], np.inf), hidden=zeros()["hidden"])', RefusalKind.NOT_FINITE),
        (
            'save(search=zeros()["search"], hidden=np.array([open] * rows["hidden"]).astype(str))',
            RefusalKind.SCHEMA,
        ),
        ('save(search=zeros()["search"], hidden=np.array([{}] * rows["hidden"]))', RefusalKind.UNREADABLE),
        ('(OUT / "predictions.npz").write_bytes(b"0" * 4_000_000)', RefusalKind.TOO_LARGE),
        ('os.truncate(OUT / "predictions.npz", 3 * 2**30)', RefusalKind.TOO_LARGE),
        ('os.link(OUT / "predictions.npz", OUT / "second.npz")', RefusalKind.LINK),
        ('os.unlink(OUT / "predictions.npz"); os.mkfifo(OUT / "predictions.npz")', RefusalKind.NOT_REGULAR),
        ('os.unlink(OUT / "predictions.npz"); os.mkdir(OUT / "predictions.npz")', RefusalKind.NOT_REGULAR),
    ],
)
def test_a_file_that_deceives_is_refused(body, kind, programs) -> None:
    trial = run(programs, f"save(**zeros())\n{body}")
    assert trial.result.is_ok, trial.result.output
    assert trial.kind is kind, trial.refusal


def test_pickled_code_is_not_executed(programs) -> None:
    body = """
    class Command:
        def __reduce__(self):
            return os.system, (f"touch {OUT.parent}/executed",)
    save(search=zeros()["search"], hidden=np.array([Command()] * rows["hidden"], dtype=object))
    """
    trial = run(programs, body)
    assert trial.kind is RefusalKind.UNREADABLE
    assert not (trial.folder / "executed").exists()


def test_the_honest_program_scores_as_before_all_baits(programs, honest) -> None:
    again = run(programs, HONEST)
    assert again.score == honest.score
    prepare_task(programs.prepared.task, 20_261_129, programs.prepared.root)  # every file is as it was

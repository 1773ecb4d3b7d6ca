"""Files of AI-Scientist-v2 that become artifacts, and its own review.

Model-written programs wrote some of them without a sandbox. Links and special files are left out, and a file that
holds a key of the worker is published with the key masked.
"""

from __future__ import annotations

import json
import math
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.core.stage import Artifact, ArtifactKind, Context
from pod_worker.stages.ai_scientist.journal import RUN_FOLDER, read_json, stage_folders

ACCEPTED_OVERALL = 6.0  # the same pass mark as that of the pipeline `experiment`
FILE_BYTES = 256 * 1024 * 1024
PLOT_LIMIT = 200
REVIEW = "review_text.txt"
_SCORES = (
    "Originality", "Quality", "Clarity", "Significance", "Soundness", "Presentation", "Contribution", "Overall",
    "Confidence",
)  # fmt: skip
# The workspaces of programs: data sets and models that they downloaded.
_LEFT_OUT_OF_ARCHIVE = ("0-run", "data")


@dataclass(frozen=True, slots=True)
class ResultFile:
    path: Path
    kind: ArtifactKind
    name: str


@dataclass(frozen=True, slots=True)
class OriginalReview:
    verdict: Literal["pass", "fail", "inconclusive"]
    scores: dict[str, float]
    notes: str


def result_files(experiment: Path) -> Iterator[ResultFile]:
    """What is there, also after a failure."""
    for folder in stage_folders(experiment):
        for pattern, kind in (
            ("best_solution_*.py", ArtifactKind.CODE),
            ("tree_plot.html", ArtifactKind.REPORT),
            ("journal.json", ArtifactKind.DATA),
        ):
            for path in sorted(folder.path.glob(pattern)):
                name = "best_solution.py" if kind is ArtifactKind.CODE else path.name
                yield ResultFile(path, kind, f"{folder.path.name}/{name}")
    for path in sorted((experiment / RUN_FOLDER).glob("*_summary.json")):
        yield ResultFile(path, ArtifactKind.DATA, f"summaries/{path.name}")
    for path in sorted((experiment / RUN_FOLDER / "experiment_results").glob("*/*.png"))[:PLOT_LIMIT]:
        yield ResultFile(path, ArtifactKind.PLOT, f"plots/{path.parent.name}/{path.name}")
    for path in sorted((experiment / "figures").glob("*.png"))[:PLOT_LIMIT]:
        yield ResultFile(path, ArtifactKind.FIGURE, f"figures/{path.name}")
    for source, kind, name in (
        ("auto_plot_aggregator.py", ArtifactKind.CODE, "figures/auto_plot_aggregator.py"),
        ("idea.md", ArtifactKind.DATA, "idea.md"),
        ("bfts_config.yaml", ArtifactKind.DATA, "bfts_config.yaml"),
        ("token_tracker.json", ArtifactKind.DATA, "token_tracker.json"),
        ("latex/template.tex", ArtifactKind.DATA, "paper/paper.tex"),
        (REVIEW, ArtifactKind.REPORT, "review/review.json"),
        ("review_img_cap_ref.json", ArtifactKind.REPORT, "review/review_img_cap_ref.json"),
    ):
        yield ResultFile(experiment / source, kind, name)
    if paper := find_paper(experiment):
        yield ResultFile(paper, ArtifactKind.PAPER, "paper/paper.pdf")


def find_paper(experiment: Path) -> Path | None:
    """The PDF that the launcher reviews.

    The final one, else that of the last reflection, else the newest.
    """
    found = [path for path in sorted(experiment.glob("*.pdf")) if _is_plain(path)]
    return max(found, key=_rank, default=None)


def _rank(path: Path) -> tuple[bool, bool, int, float]:
    name = path.name.lower()
    number = re.search(r"reflection[_.]?(\d+)", name)
    is_reflection = "reflection" in name
    return (
        is_reflection,
        is_reflection and "final" in name,
        int(number[1]) if number else -1,
        path.stat().st_mtime,
    )


def _is_plain(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= FILE_BYTES


def publish_results(context: Context, experiment: Path, redactor: Redactor) -> list[Artifact]:
    """Artifacts of all files that are there."""
    return [
        published
        for file in result_files(experiment)
        if (published := publish_masked(context, file, redactor)) is not None
    ]


def publish_masked(context: Context, file: ResultFile, redactor: Redactor) -> Artifact | None:
    """One artifact; None for what is no plain file of at most FILE_BYTES."""
    if not _is_plain(file.path):
        return None
    content = file.path.read_bytes() if redactor else b""
    if not redactor.is_in(content):
        return context.artifacts.publish(file.path, file.kind, name=file.name)
    context.log(f"{file.name} holds a key of the worker; it is published with the key masked", "warning")
    masked = context.work_dir / "masked"
    masked.write_bytes(redactor.redact_bytes(content))
    try:
        return context.artifacts.publish(masked, file.kind, name=file.name)
    finally:
        masked.unlink()


def read_review(experiment: Path) -> OriginalReview | None:
    """The original's review; None where it wrote none."""
    path = experiment / REVIEW
    if not _is_plain(path):
        return None
    review = read_json(path)
    if not isinstance(review, dict):
        return OriginalReview("inconclusive", {}, f"{REVIEW} is no JSON object")
    scores = {name: float(review[name]) for name in _SCORES if _is_score(review.get(name))}
    overall = scores.get("Overall")
    if overall is None:
        return OriginalReview("inconclusive", scores, "the review has no Overall")
    decision = str(review.get("Decision", "none"))[:100]
    notes = f"review of AI-Scientist-v2: Overall {overall:g}, Decision {decision}"
    return OriginalReview("pass" if overall >= ACCEPTED_OVERALL else "fail", scores, notes)


def _is_score(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ── the archive of a finished search ────────────────────────────────────────────────────────────────────────


def pack_experiment(experiment: Path, target: Path, redactor: Redactor) -> list[str]:
    """Write a tar of the experiment without its workspaces.

    Returns the files that are not in it: too large, not regular, or with a key.
    """
    skipped: list[str] = []
    with tarfile.open(target, "w:gz", compresslevel=1) as tar:
        for path in sorted(experiment.rglob("*")):
            inner = path.relative_to(experiment)
            if inner.parts[0] in _LEFT_OUT_OF_ARCHIVE or path.is_dir() or path.is_symlink():
                continue
            if not _is_plain(path) or redactor.is_in(path.read_bytes()):
                skipped.append(str(inner))
                continue
            tar.add(path, arcname=f"{experiment.name}/{inner}", recursive=False)
    return skipped


def unpack_experiment(archive: Path, folder: Path) -> None:
    """Extract the archive below `folder`.

    Raises RunError(STORAGE) for one that is damaged or has members elsewhere.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError, json.JSONDecodeError) as error:
        raise RunError(
            FailureCode.STORAGE,
            f"the archive of the finished experiments cannot be used ({str(error)[:200]}); "
            "reset the run to start over",
        ) from error

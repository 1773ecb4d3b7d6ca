"""The verdict on a paper: a pure function of the stored reviews and checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pod_worker.core.run import Json

PASS_OVERALL = 6.0
QUALITIES = ("Originality", "Quality", "Clarity", "Significance", "Soundness", "Presentation", "Contribution")
SCALES: dict[str, tuple[int, int]] = dict.fromkeys(QUALITIES, (1, 4)) | {"Overall": (1, 10), "Confidence": (1, 5)}
TEXTS = ("Summary",)
LISTS = ("Strengths", "Weaknesses", "Questions", "Limitations")
DECISIONS = ("Accept", "Reject")


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperCheck:
    """One deterministic check of a paper."""

    name: str
    title: str
    holds: bool
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReview:
    """One review as the model gave it, with what is wrong with it."""

    sample: int
    model: str
    is_scripted: bool
    answer: dict[str, Json]
    subject: str = ""  # digest of what was reviewed: another paper needs other reviews
    problems: tuple[str, ...] = ()

    @property
    def is_valid(self) -> bool:
        return not self.problems

    @property
    def overall(self) -> int:
        return int(self.answer["Overall"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewVerdict:
    verdict: Literal["pass", "fail", "inconclusive"]
    reason: str
    scores: dict[str, float] = field(default_factory=dict)  # means over the valid reviews
    valid_reviews: int = 0
    failed_checks: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()  # reviews whose Decision contradicts their Overall


def review_problems(answer: Json) -> tuple[str, ...]:
    """Why an answer is no review of the rubric; empty where it is one.

    A Decision that contradicts the scores is no problem: only the scores count.
    """
    if not isinstance(answer, dict):
        return ("the review is no object",)
    found = [f"{name} is missing" for name in TEXTS if not _is_text(answer.get(name))]
    found += [f"{name} is no list of texts" for name in LISTS if not _is_list(answer.get(name))]
    found += [
        f"{name} must be a whole number from {least} to {most}, not {answer.get(name)!r}"
        for name, (least, most) in SCALES.items()
        if not _is_score(answer.get(name), least, most)
    ]
    if not isinstance(answer.get("Ethical Concerns"), bool):
        found.append("Ethical Concerns must be true or false")
    if answer.get("Decision") not in DECISIONS:
        found.append(f"Decision must be one of {', '.join(DECISIONS)}")
    return tuple(found)


def decide(reviews: Sequence[StoredReview], checks: Sequence[PaperCheck]) -> ReviewVerdict:
    """Pass: mean Overall of the valid reviews at least 6, and every check holds.

    Inconclusive without a valid review or without checks.
    """
    valid = [review for review in reviews if not review_problems(review.answer)]
    failed = tuple(check.name for check in checks if not check.holds)
    if not valid or not checks:
        reason = "no valid review" if not valid else "the checks were not made"
        return ReviewVerdict(verdict="inconclusive", reason=reason, failed_checks=failed, valid_reviews=len(valid))
    scores = {name: math.fsum(int(each.answer[name]) for each in valid) / len(valid) for name in SCALES}
    contradictions = tuple(
        f"review {each.sample}: {each.answer['Decision']} with Overall {each.overall}"
        for each in valid
        if (each.answer["Decision"] == "Accept") != (each.overall >= PASS_OVERALL)
    )
    is_good = scores["Overall"] >= PASS_OVERALL
    reason = f"mean Overall {scores['Overall']:.2f} of {len(valid)} reviews, at least {PASS_OVERALL:g} is needed"
    if failed:
        reason += f"; checks that do not hold: {', '.join(failed)}"
    return ReviewVerdict(
        verdict="pass" if is_good and not failed else "fail",
        reason=reason,
        scores=scores,
        valid_reviews=len(valid),
        failed_checks=failed,
        contradictions=contradictions,
    )


def _is_score(value: Json, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_text(value: Json) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)

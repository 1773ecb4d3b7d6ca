"""The verdict is a pure function of stored reviews and checks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.core.run import Json
from pod_worker.paper.verdict import (
    DECISIONS,
    LISTS,
    PASS_OVERALL,
    SCALES,
    TEXTS,
    PaperCheck,
    StoredReview,
    decide,
    review_problems,
)

HOLDS = PaperCheck(name="numbers", title="t", holds=True)
FAILS = PaperCheck(name="figures", title="t", holds=False, findings=("x",))


def make_answer(**fields: Json) -> dict[str, Json]:
    return (
        dict.fromkeys(TEXTS, "text")
        | {name: ["text"] for name in LISTS}
        | {name: least + 1 for name, (least, _) in SCALES.items()}
        | {"Ethical Concerns": False, "Decision": "Reject"}
        | fields
    )


def make_review(answer: dict[str, Json], sample: int = 0) -> StoredReview:
    return StoredReview(
        sample=sample, model="m", is_scripted=False, answer=answer, problems=review_problems(answer)
    )


SCORE = st.one_of(st.integers(-2, 12), st.none(), st.booleans(), st.just("7"), st.just(6.5))
ANSWER = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(SCALES, SCORE)
    | {name: st.sampled_from(["text", "", None]) for name in TEXTS}
    | {name: st.sampled_from([["a"], [], "a", None, [3]]) for name in LISTS}
    | {"Decision": st.sampled_from([*DECISIONS, "Maybe", None]), "Ethical Concerns": st.sampled_from([True, None, "no"])},
)  # fmt: skip
VALID = st.builds(
    lambda scores, decision: make_answer(Decision=decision, **scores),
    st.fixed_dictionaries({name: st.integers(least, most) for name, (least, most) in SCALES.items()}),
    st.sampled_from(DECISIONS),
)
CHECKS = st.lists(st.sampled_from([HOLDS, FAILS]), max_size=3)


@given(st.lists(st.one_of(ANSWER, VALID), max_size=5), CHECKS)
def test_the_verdict_follows_from_the_mean_and_the_checks(
    answers: list[dict[str, Json]], checks: list[PaperCheck]
) -> None:
    reviews = [make_review(answer, sample) for sample, answer in enumerate(answers)]
    valid = [review for review in reviews if review.is_valid]
    verdict = decide(reviews, checks)
    assert decide(reviews, checks) == verdict
    assert verdict.valid_reviews == len(valid)
    if not valid or not checks:
        assert verdict.verdict == "inconclusive"
        return
    mean = math.fsum(review.overall for review in valid) / len(valid)
    assert verdict.scores["Overall"] == pytest.approx(mean)
    assert (verdict.verdict == "pass") == (mean >= PASS_OVERALL and all(check.holds for check in checks))
    assert verdict.verdict in ("pass", "fail")


@given(st.lists(VALID, min_size=1, max_size=5))
def test_a_decision_changes_no_verdict(answers: list[dict[str, Json]]) -> None:
    flipped = [
        answer | {"Decision": "Accept" if answer["Decision"] == "Reject" else "Reject"} for answer in answers
    ]
    first, second = (decide([make_review(each) for each in group], [HOLDS]) for group in (answers, flipped))
    assert first.verdict == second.verdict
    assert len(first.contradictions) + len(second.contradictions) == len(answers)


@given(st.permutations([3, 6, 9, 5, 8]))
def test_the_order_of_reviews_changes_nothing(scores: list[int]) -> None:
    reviews = [make_review(make_answer(Overall=score), sample) for sample, score in enumerate(scores)]
    assert decide(reviews, [HOLDS]).scores["Overall"] == pytest.approx(6.2)
    assert decide(reviews, [HOLDS]).verdict == "pass"


@pytest.mark.parametrize(
    ("scores", "checks", "verdict"),
    [
        ([6, 6, 6], [HOLDS], "pass"),
        ([7, 6, 5], [HOLDS], "pass"),
        ([6, 6, 5], [HOLDS], "fail"),
        ([9, 9, 9], [HOLDS, FAILS], "fail"),
        ([9], [], "inconclusive"),
        ([], [HOLDS], "inconclusive"),
        ([], [FAILS], "inconclusive"),
        ([11, 0], [HOLDS], "inconclusive"),
    ],
)
def test_examples(scores: list[int], checks: list[PaperCheck], verdict: str) -> None:
    found = decide([make_review(make_answer(Overall=score)) for score in scores], checks)
    assert found.verdict == verdict
    assert found.reason


@pytest.mark.parametrize("name", [*SCALES, *TEXTS, *LISTS, "Decision", "Ethical Concerns"])
def test_each_field_of_the_rubric_is_needed(name: str) -> None:
    answer = make_answer()
    assert review_problems(answer) == ()
    del answer[name]
    (problem,) = review_problems(answer)
    assert name in problem


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_what_is_no_object_is_no_review(value: Json) -> None:
    assert review_problems(value) == ("the review is no object",)

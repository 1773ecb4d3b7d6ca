"""Reviews are independent, stored one by one, and never asked for twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.run import Json
from pod_worker.llm.scripted.client import ScriptedClient
from pod_worker.paper.evidence.results import read_json
from pod_worker.paper.review import SCHEMA, collect_reviews
from pod_worker.paper.typesetting.figures import FigureSet
from pod_worker.paper.verdict import PaperCheck, StoredReview, decide
from tests.paper.conftest import NoStop, Writer
from tests.paper.test_verdict import FAILS, HOLDS, make_answer

BETTER = {"key": "stage3.gain", "is_better_than_baseline_beyond_noise": True}
COMPONENT = {"key": "ablation1.change", "is_worse_than_full_method_beyond_noise": True}


def ask(folder: Path, client: object, checks: list[PaperCheck], findings: list[Json]) -> tuple[StoredReview, ...]:
    return collect_reviews("text", (), checks, findings, folder, client, NoStop())


def by_sample(request: CompletionRequest) -> Json:
    return make_answer(Overall=5 + request.sample)


def test_each_review_is_a_sample_of_its_own_and_is_stored(tmp_path: Path) -> None:
    client = Writer(review__write=by_sample)
    reviews = ask(tmp_path, client, [HOLDS], [])
    assert [each.overall for each in reviews] == [5, 6, 7]
    assert [each.sample for each in client.requests] == [0, 1, 2]
    assert client.requests[0].schema == SCHEMA
    for review in reviews:
        assert read_json(tmp_path / "reviews" / f"review-{review.sample}.json", StoredReview) == review
    assert decide(reviews, [HOLDS]).verdict == "pass"


def test_a_stored_review_is_not_paid_again(tmp_path: Path) -> None:
    first = Writer(review__write=[make_answer(), RunError(FailureCode.NETWORK, "away")])
    with pytest.raises(RunError):
        ask(tmp_path, first, [HOLDS], [])
    second = Writer(review__write=by_sample)
    assert len(ask(tmp_path, second, [HOLDS], [])) == 3
    assert [each.sample for each in second.requests] == [1, 2]


def test_another_paper_gets_other_reviews(tmp_path: Path) -> None:
    ask(tmp_path, Writer(review__write=by_sample), [HOLDS], [])
    client = Writer(review__write=by_sample)
    collect_reviews("another text", (), [HOLDS], [], tmp_path, client, NoStop())
    assert client.count("review.write") == 3
    ask_again = Writer(review__write=by_sample)
    collect_reviews("another text", (), [HOLDS], [], tmp_path, ask_again, NoStop())
    assert ask_again.requests == []


@pytest.mark.parametrize("answer", [{}, None, make_answer(Overall=11), RunError(FailureCode.LLM_ERROR, "filter")])
def test_an_answer_that_is_no_review_is_stored_and_does_not_count(tmp_path: Path, answer: Json) -> None:
    reviews = ask(tmp_path, Writer(review__write=[answer, make_answer(Overall=8)]), [HOLDS], [])
    assert [each.is_valid for each in reviews] == [False, True, True]
    assert reviews[0].problems
    assert decide(reviews, [HOLDS]).valid_reviews == 2


@pytest.mark.parametrize("code", [FailureCode.BUDGET_EXCEEDED, FailureCode.LLM_AUTH, FailureCode.LLM_RATE_LIMIT])
def test_failures_that_are_not_the_answers_end_the_stage(tmp_path: Path, code: FailureCode) -> None:
    with pytest.raises(RunError):
        ask(tmp_path, Writer(review__write=[RunError(code, "x")]), [HOLDS], [])
    assert not (tmp_path / "reviews").exists()


def test_reviewers_see_the_figures(drawn: Path, tmp_path: Path) -> None:
    figures = read_json(drawn / "figures.json", FigureSet).figures
    client = Writer(review__write=by_sample)
    collect_reviews("text", figures, [HOLDS], [], drawn, client, NoStop(), count=1)
    images = client.requests[0].messages[1].images
    assert len(images) == len(figures)
    assert all(image.data.startswith(b"\x89PNG") for image in images)
    (drawn / "reviews" / "review-0.json").unlink()


@pytest.mark.parametrize(
    ("checks", "findings", "verdict"),
    [
        ([HOLDS], [BETTER], "pass"),
        ([HOLDS], [BETTER, COMPONENT], "pass"),
        ([HOLDS], [COMPONENT], "fail"),
        ([HOLDS], [], "fail"),
        ([HOLDS, FAILS], [BETTER, COMPONENT], "fail"),
    ],
)
def test_scripted_reviews_follow_from_the_facts(
    tmp_path: Path, checks: list[PaperCheck], findings: list[Json], verdict: str
) -> None:
    reviews = ask(tmp_path, ScriptedClient(), checks, findings)
    assert all(review.is_valid and review.is_scripted for review in reviews)
    assert decide(reviews, checks).verdict == verdict

"""A number in the text of a paper is a key of the ledger, or it is found here."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pod_worker.core.research.idea import Idea
from pod_worker.core.research.literature import Work
from pod_worker.core.research.measure import Metric
from pod_worker.paper.evidence.literals import Vocabulary, build_vocabulary, find_literals
from pod_worker.paper.evidence.results import RecordedResults
from pod_worker.paper.sources import PaperSources, document_parts
from pod_worker.paper.typesetting.document import Draft
from pod_worker.paper.writing import writing_facts
from tests.paper.conftest import make_node, make_results

WORK = Work(id="arxiv:1906.02629", title="When Does Label Smoothing Help?", authors=("Rafael Müller",), year=2019)


@pytest.fixture(scope="module")
def vocabulary(idea: Idea, results: RecordedResults) -> Vocabulary:
    return build_vocabulary(idea, results, [WORK])


@pytest.mark.parametrize(
    "text",
    [
        r"Accuracy is \result{stage3.best} on \result{task.train_rows} rows.",
        r"See Section~3, Figures 1 and 2, Table~\ref{tab:results2}, Eq. 4 and Stage\_2.",
        r"As Müller et al. (2019) and \citet{muller2019when} report.",
        r"The node \emph{weight decay 0.01} and label  smoothing 0.1 differ.",
        r"We use $q = (1 - \epsilon) y + \epsilon / K$ with $\epsilon = 0.1$ and $\frac{1}{2} x^2$.",
        r"All intervals are 95\% confidence intervals on MNIST-1D.",
        "1. first\n2) second\n(3) third",
        "The F1 score, the L2 norm and the top-5 error.",
        "We used three seeds and two splits.",
    ],
)
def test_numbers_with_a_source_are_no_literals(text: str, vocabulary: Vocabulary) -> None:
    assert find_literals(text, vocabulary) == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("An accuracy of 0.97.", "0.97"),
        (r"an accuracy of $0.97$", "0.97"),
        (r"a gain of $\pm 2\%$", "2"),
        (r"a gain of $\Delta = 2\%$", "2"),
        (r"a gain of \textbf{12} points", "12"),
        (r"$p = 0.03$ is significant", "0.03"),
        ("Table 1 and 93 percent", "93"),
        ("Table 1 and 93\\% of rows", "93"),
        ("Table 1, 2.5 and 3", "2.5"),
        ("ninety-seven percent of rows", "ninety"),
        ("it is two times better", "two times"),
        ("five percent more", "five percent"),
        ("in 2019 we saw", "2019"),
        ("Smith (2019) reports", "2019"),
        (r"9{}7 \%", "9"),
        ("ResNet-50 reaches it", "50"),
        ("accuracy-97", "97"),
        ("97\\% confidence", "97"),
        ("label smoothing 0.2", "0.2"),
    ],
)
def test_a_literal_number_is_found(text: str, found: str, vocabulary: Vocabulary) -> None:
    assert found in [literal.text for literal in find_literals(text, vocabulary)]


def test_a_label_that_speaks_of_the_metric_is_no_source(idea: Idea) -> None:
    results = make_results()
    liar = make_node("n9", "Stage_3", "reaches accuracy 0.99", 0.9)
    vocabulary = build_vocabulary(idea, RecordedResults(
        run_id="r", task="t", metric=results.metric, nodes=(liar,), outcomes={}), [])  # fmt: skip
    assert find_literals("It reaches accuracy 0.99.", vocabulary)


@pytest.mark.parametrize("label", ["reaches accuracy 0.99", "5 % better", "Accuracy: 1"])
def test_a_label_that_could_be_read_as_a_result_is_not_shown(label: str, idea: Idea) -> None:
    given = make_results()
    nodes = tuple(replace(node, change=label) for node in given.nodes)
    sources = PaperSources(idea=idea, results=replace(given, nodes=nodes), figures=())
    parts = document_parts(sources, Draft(title="t", abstract="a", sections=()))
    cells = [cell for table in parts.tables for row in table.texts for cell in row]
    facts = writing_facts(sources)
    assert not any(label in cell for cell in cells)
    assert any("node n4" in cell for cell in cells)
    assert label not in json.dumps(facts, ensure_ascii=False)


def test_the_context_shows_where_the_number_is(vocabulary: Vocabulary) -> None:
    (literal,) = find_literals("The first method has an accuracy of 0.97 on the test rows.", vocabulary)
    assert literal.context == "The first method has an accuracy of 0.97 on the test rows."


@pytest.mark.parametrize(
    "text", ["It reaches a macro f1 of", "macro\\_f1", "the Macro F1 on the hidden split", "macro-f1"]
)
def test_the_name_of_the_measure_is_no_number(text: str, idea: Idea, results: RecordedResults) -> None:
    measured = replace(results, metric=Metric("macro_f1", "higher"))
    assert find_literals(text, build_vocabulary(idea, measured, [])) == ()
    assert find_literals(f"{text} 0.9", build_vocabulary(idea, measured, [])) != ()

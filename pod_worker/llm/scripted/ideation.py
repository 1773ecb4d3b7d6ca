"""Scripted replies for the operations of ideation.

An idea is a question about the training of small models, asked about one of the offered tasks. Questions that
share words with the hypothesis come first. Related work names the works of the facts and no others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pod_worker.core.research.completion import CompletionRequest
from pod_worker.core.run import Json


@dataclass(frozen=True, slots=True)
class _Question:
    name: str
    title: str
    claim: str
    change: str  # what the experiment varies
    risk: str
    is_about_classes: bool = False  # makes no sense for regression


_QUESTIONS = (
    _Question(
        "feature_scaling",
        "When does standardising inputs change a linear model",
        "A linear model gains from standardised inputs where columns differ strongly in scale.",
        "raw inputs against standardised and rank-transformed inputs",
        "A solver that is run to convergence may hide the effect.",
    ),
    _Question(
        "learning_curve",
        "How many training rows a tree ensemble needs to overtake a linear model",
        "Below a task-specific number of rows, a linear model beats a random forest.",
        "random subsets of 10, 25, 50 and 100 percent of the training rows",
        "Small subsets vary much, so many seeds are needed.",
    ),
    _Question(
        "label_noise",
        "Robustness of boosted trees and forests to wrong training labels",
        "Random forests lose less than gradient boosting when a tenth of the training labels are wrong.",
        "0, 5, 10 and 20 percent of the training labels replaced at random",
        "Uniform noise is milder than the noise of real annotators.",
        True,
    ),
    _Question(
        "ridge_strength",
        "Choosing the regularisation strength by cross-validation on few rows",
        "Cross-validated regularisation beats the library default by more than the noise between seeds.",
        "the default strength against a strength chosen by five-fold cross-validation",
        "The default may be close to the optimum already.",
    ),
    _Question(
        "feature_selection",
        "Dropping columns before fitting: help or harm for nearest neighbours",
        "Nearest neighbours gain from keeping only the columns with the highest mutual information.",
        "all columns against the best half, quarter and eighth of them",
        "Selection on the training rows alone can overfit.",
    ),
    _Question(
        "bagging_size",
        "The smallest ensemble whose score no longer depends on the seed",
        "From a certain size on, the spread between seeds is larger than the gain of further trees.",
        "forests of 5, 20, 100 and 400 trees with ten seeds each",
        "The spread of the split is not the spread of the ensemble.",
    ),
    _Question(
        "class_weights",
        "Do balanced class weights pay on almost balanced classes",
        "Balanced class weights change the score by less than the noise band where classes are almost equal.",
        "uniform against balanced class weights",
        "The metric may reward the majority class.",
        True,
    ),
    _Question(
        "polynomial_features",
        "Products of columns against a kernel at equal cost",
        "Second-order products give a linear model most of the gain of a radial kernel.",
        "plain columns, products of second order, and a radial kernel",
        "The number of products grows quickly and may overfit.",
    ),
    _Question(
        "early_stopping",
        "Stopping gradient boosting early on a tenth of the rows",
        "Early stopping on held-out training rows matches a tuned number of rounds at a third of the cost.",
        "a fixed number of rounds against early stopping with patience 5 and 20",
        "The held-out rows are lost for training.",
    ),
    _Question(
        "input_noise",
        "Gaussian noise on inputs as an augmentation of small tables",
        "Training copies with slight Gaussian noise help a small neural network and not a linear model.",
        "no augmentation against noise of 0.05, 0.1 and 0.3 standard deviations",
        "Strong noise destroys the signal of weak columns.",
    ),
    _Question(
        "calibration",
        "Calibrating a forest after training: what it costs in rank quality",
        "Isotonic calibration lowers the log loss of a forest without changing its accuracy.",
        "no calibration, sigmoid calibration and isotonic calibration",
        "Isotonic calibration overfits on few rows.",
        True,
    ),
    _Question(
        "principal_components",
        "Principal components before a neural network on tables",
        "Keeping the directions of most variance shortens training without a loss beyond the noise band.",
        "all columns against 99, 95 and 80 percent of the variance",
        "Directions of low variance may carry the signal.",
    ),
    _Question(
        "network_depth",
        "Depth against width of a small network with a fixed number of weights",
        "With the number of weights fixed, one wide layer is as good as three narrow ones on tables.",
        "one, two and three hidden layers with equal numbers of weights",
        "Deeper networks may need another learning rate.",
    ),
    _Question(
        "stacking",
        "Stacking three unlike models against the best of them",
        "A linear stack of a forest, a kernel machine and a linear model beats the best single one.",
        "each model alone, their mean, and a cross-validated stack",
        "The gain may lie within the noise between seeds.",
    ),
    _Question(
        "robust_loss",
        "Absolute and Huber losses where targets have heavy tails",
        "A Huber loss lowers the error of boosting on targets with outliers.",
        "squared, absolute and Huber losses",
        "The metric itself may punish robust fits.",
    ),
    _Question(
        "k_of_neighbours",
        "Weighting neighbours by distance removes the need to tune their number",
        "With distance weights the score is flat over a wide range of neighbours.",
        "uniform and distance weights for 1, 5, 15 and 45 neighbours",
        "Distances lose their meaning in many dimensions.",
    ),
    _Question(
        "seed_variance",
        "How much of a reported gain is the seed",
        "For default models the spread between seeds is as large as the gain of tuning.",
        "ten seeds of the default against ten seeds of a tuned model",
        "Ten seeds give wide intervals.",
    ),
    _Question(
        "quantile_transform",
        "Mapping skewed columns to a normal shape before kernels",
        "A quantile transform helps kernel machines on skewed columns and harms nothing else.",
        "no transform, logarithm, and quantile transform",
        "Few rows make quantiles coarse.",
    ),
    _Question(
        "monte_carlo_dropout",
        "Averaging predictions over dropout masks at test time",
        "Averaging dropout masks improves the probabilities of a small network at no training cost.",
        "one deterministic pass against 10 and 30 stochastic passes",
        "A network this small may need no dropout.",
        True,
    ),
    _Question(
        "semi_supervised",
        "Pseudo-labels of confident predictions when labels are scarce",
        "With a tenth of the labels, confident pseudo-labels recover a third of the lost score.",
        "labelled rows alone against one and three rounds of pseudo-labels",
        "Wrong pseudo-labels reinforce themselves.",
        True,
    ),
)
_NO_TASK: dict[str, Json] = {"name": "", "title": "a table of measurements", "metric": "the score", "kind": ""}


def _propose(request: CompletionRequest) -> Json:
    facts = request.facts
    question, task = _choose(facts, bool(facts.get("problem")))
    topic = facts.get("topic") or {}
    subject = str(topic.get("title") or topic.get("text") or "the hypothesis").strip()[:120]
    metric, title = str(task["metric"]).replace("_", " "), task["title"]
    opening = f"a question: {subject}" if subject.endswith("?") else f"a hypothesis: {subject.rstrip('.')}."
    idea = {
        "Name": f"{question.name}_{task['name']}".strip("_"),
        "Title": f"{question.title}: {title.lower()}",
        "Short Hypothesis": f"{question.claim} We test it on {title.lower()}.",
        "Related Work": _related_work(facts.get("literature") or []),
        "Abstract": (
            f"We start from {opening} A small program can test a part of it. On {title.lower()} we compare "
            f"{question.change}, all else equal, and measure {metric} on rows that no program sees. A difference "
            "counts only beyond the noise band of the replicated baseline. If there is none, the claim is refuted "
            "for this task, and the paper says so."
        ),
        "Experiments": [
            f"Fit a default baseline for {title.lower()} and replicate it with further seeds.",
            f"Compare {question.change}; report {metric} with its interval.",
        ],
        "Risk Factors and Limitations": [question.risk],
        "Task": task["name"],
    }
    return {
        "thought": f"A question about {question.name.replace('_', ' ')} fits.",
        "idea": idea,
        "is_final": False,
    }


def _reflect(request: CompletionRequest) -> Json:
    """Round 1 adds an ablation, round 2 the limits of the evidence, round 3 nothing."""
    facts = request.facts
    round_number = int(facts.get("round") or 1)
    idea: dict[str, Json] = dict(facts.get("previous") or {})
    idea["Related Work"] = _related_work(facts.get("literature") or [])
    if round_number == 1:
        thought = "The comparison lacks a part that shows which component acts."
        added = "Remove one component of the best variant at a time and measure the loss."
        idea["Experiments"] = [*idea.get("Experiments", []), added]
    elif round_number == 2:
        thought = "The claim should say how far it reaches."
        added = "One data set supports no claim about others."
        idea["Risk Factors and Limitations"] = [*idea.get("Risk Factors and Limitations", []), added]
    else:
        thought = "Nothing important is left to improve."
    return {"thought": thought, "idea": idea, "is_final": round_number >= 2}


def _choose(facts: Mapping[str, Json], skips_one: bool) -> tuple[_Question, Mapping[str, Json]]:
    """The first question that no prior title asks, and a task that fits it."""
    prior = " ".join(str(title) for title in facts.get("prior") or [])
    fresh = [each for each in _ranked(facts) if each.title not in prior] or list(_QUESTIONS)
    question = fresh[min(int(skips_one), len(fresh) - 1)]
    tasks = [each for each in facts.get("tasks") or [] if isinstance(each, dict)]
    fitting = [each for each in tasks if not (question.is_about_classes and each.get("kind") == "regression")]
    if not fitting:
        return question, _NO_TASK
    words = _words(_topic_text(facts))
    named = [each for each in fitting if words & _words(str(each["name"]))]
    offered = named or fitting
    return question, offered[len(facts.get("prior") or []) % len(offered)]


def _ranked(facts: Mapping[str, Json]) -> Sequence[_Question]:
    """Questions that share words with the hypothesis first.

    The order of the others depends on the hypothesis and the seed.
    """
    topic = _topic_text(facts)
    words, seed = _words(topic), facts.get("seed")

    def rank(question: _Question) -> tuple[int, bytes]:
        shared = words & _words(f"{question.name} {question.title} {question.claim}")
        return -len(shared), hashlib.sha256(f"{topic}|{seed}|{question.name}".encode()).digest()

    return sorted(_QUESTIONS, key=rank)


def _topic_text(facts: Mapping[str, Json]) -> str:
    topic = facts.get("topic") or {}
    return f"{topic.get('title', '')} {topic.get('text', '')}"


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 3}


def _related_work(works: Sequence[Mapping[str, Json]]) -> str:
    if not works:
        return "No literature search was possible, or it found nothing; no work is cited."
    named = "; ".join(f"{work['title']} ({work.get('year') or 'no year'})" for work in works[:5])
    return f"The search found: {named}. None of their abstracts reports this comparison on this data."


REPLIES: dict[str, Callable[[CompletionRequest], Json]] = {
    "ideation.propose": _propose,
    "ideation.reflect": _reflect,
}

"""What people do with hypotheses: submit ideation, choose and launch ideas.

The command line and the API call the same functions. Parameters are checked by `check`, because this layer knows
no pipelines. Preconditions are checked before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.idea import read_idea
from pod_worker.core.research.ideation import EXPERIMENT_PIPELINE, PIPELINE, refuse, topic_problems
from pod_worker.core.run import Json, Run
from pod_worker.store.ideation.adoption import RequestAdoption
from pod_worker.store.ideation.hypotheses import Hypotheses, Hypothesis, HypothesisRequest
from pod_worker.store.ideation.launches import experiment_params, experiment_request
from pod_worker.store.ideation.requests import IdeationRequest, IdeationRequests
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.queue.run_queue import RunQueue

# Checks the parameters of a pipeline and completes them; raises RunError(INVALID_INPUT).
CheckParams = Callable[[str, dict[str, Json]], dict[str, Json]]
_OF_THE_REQUEST = (
    "idea",
    "title",
    "context",
    "hypothesis_id",
    "reflections",
    "max_num_generations",
    "prior_titles",
)


class HypothesisNotFoundError(LookupError):
    """There is no hypothesis of this id; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentLaunch:
    """An experiment about an idea of a hypothesis."""

    hypothesis_id: str
    run_id: str
    index: int | None = None  # of the idea, which becomes the selected one; None: the selected one
    params: Mapping[str, Json] = field(default_factory=dict)
    by: str = "person"


class IdeationOperations:
    def __init__(self, database: Mongo, queue: RunQueue, check: CheckParams) -> None:
        self._hypotheses = Hypotheses(database)
        self._requests = IdeationRequests(database)
        self._adoption = RequestAdoption(database, queue)
        self._queue = queue
        self._check = check

    def create(
        self, hypothesis: HypothesisRequest, ideation: IdeationRequest | None, launch: ExperimentLaunch | None
    ) -> None:
        """Store a hypothesis, and queue its ideation and experiment on request.

        An experiment without an idea waits for one. Raises RunError(INVALID_INPUT) before anything is written.
        """
        if launch and not (ideation or hypothesis.idea):
            raise RunError(FailureCode.INVALID_INPUT, "an experiment needs an idea: ask for ideation, or give one")
        topic = Hypothesis(
            id=hypothesis.id, title=hypothesis.title, text=hypothesis.text, context=hypothesis.context, idea=None
        )
        if ideation:
            self._checked(ideation, topic)
        if launch:
            self._check_experiment(launch.params)
        self._hypotheses.create(hypothesis)
        if launch:
            self.launch(launch) if hypothesis.idea else self.launch_when_ready(launch)
        if ideation:
            self.submit(ideation)

    def submit(self, request: IdeationRequest) -> Document:
        """Queue the ideation; the request as it is stored.

        Raises HypothesisNotFoundError and RunError(INVALID_INPUT), both before anything is written.
        """
        self._requests.insert(self._checked(request, self._hypothesis(request.hypothesis_id)))
        self._adoption.adopt(request.id)
        found = self._requests.get(request.id)
        if found is None or found.get("runId") is None:
            reason = (found or {}).get("error") or "the request was deleted"
            raise RunError(FailureCode.INVALID_INPUT, f"ideation request {request.id}: {reason}")
        return found

    def _checked(self, request: IdeationRequest, hypothesis: Hypothesis) -> IdeationRequest:
        """With complete parameters; adoption adds those that follow from the hypothesis."""
        topic = topic_problems(hypothesis.title, hypothesis.text, hypothesis.context)
        refuse(topic, f"ideation about hypothesis {hypothesis.id} is not possible")
        given: dict[str, Json] = {
            "reflections": request.reflections,
            "max_num_generations": request.max_num_generations,
            **request.params,
            "title": hypothesis.title,
            "idea": hypothesis.text,
            "context": hypothesis.context or "",
        }
        found = self._check(PIPELINE, given)
        return IdeationRequest(
            id=request.id,
            hypothesis_id=hypothesis.id,
            reflections=found["reflections"],
            max_num_generations=found["max_num_generations"],
            priority=request.priority,
            params={name: value for name, value in found.items() if name not in _OF_THE_REQUEST},
            created_by=request.created_by,
        )

    def launch(self, launch: ExperimentLaunch) -> Run:
        """The queued experiment; a repeated run id queues nothing twice.

        Raises HypothesisNotFoundError and RunError(INVALID_INPUT).
        """
        hypothesis = self._hypothesis(launch.hypothesis_id)
        idea = selected_idea(hypothesis, launch.index)
        request = experiment_request(launch.run_id, hypothesis.id, idea, launch.params)
        request = replace(request, params=self._check(request.pipeline, request.params))
        if launch.index is not None:
            self._hypotheses.choose(hypothesis.id, idea, launch.index, launch.by)
        return self._queue.enqueue(request)[0]

    def launch_when_ready(self, launch: ExperimentLaunch) -> None:
        """Ask for an experiment as soon as ideation has brought an idea.

        Raises HypothesisNotFoundError, and RunError(INVALID_INPUT) for parameters that no idea could make valid.
        """
        hypothesis = self._hypothesis(launch.hypothesis_id)
        self._check_experiment(launch.params)
        self._hypotheses.launch_when_ready(hypothesis.id, launch.run_id, launch.params)

    def _check_experiment(self, params: Mapping[str, Json]) -> None:
        """Check the parameters of an experiment whose idea is not known yet."""
        self._check(EXPERIMENT_PIPELINE, experiment_params(_ANY_IDEA, params))

    def _hypothesis(self, hypothesis_id: str) -> Hypothesis:
        found = self._hypotheses.get(hypothesis_id)
        if found is None:
            raise HypothesisNotFoundError(f"there is no hypothesis {hypothesis_id[:200]!r}")
        return found


_ANY_IDEA: dict[str, Json] = {
    "Title": "t",
    "Short Hypothesis": "h",
    "Abstract": "a",
    "Experiments": ["e"],
    "Risk Factors and Limitations": ["r"],
}


def selected_idea(hypothesis: Hypothesis, index: int | None) -> dict[str, Json]:
    """The idea of this index, or the selected one. Raises RunError(INVALID_INPUT)."""
    if index is None:
        value: Json = hypothesis.idea
    else:
        value = hypothesis.ideas[index] if 0 <= index < len(hypothesis.ideas) else None
    if value is None:
        raise RunError(FailureCode.INVALID_INPUT, _missing_idea(hypothesis, index))
    return read_idea(value).to_json()


def _missing_idea(hypothesis: Hypothesis, index: int | None) -> str:
    count = len(hypothesis.ideas)
    if index is not None and count:
        return f"hypothesis {hypothesis.id} has no idea {index}; it has the ideas 0 to {count - 1}"
    return (
        f"hypothesis {hypothesis.id} has no idea yet. Let ideation write some: "
        f"pod-worker ideation submit {hypothesis.id}"
    )

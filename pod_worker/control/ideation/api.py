"""Hypotheses, ideation requests and launches over HTTP.

Bodies and answers have the field names of the documents (camelCase). Parameters are those of the pipelines.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query
from fastapi.responses import Response
from ulid import ULID

from pod_worker.control.web.problem import ProblemError
from pod_worker.control.web.responses import json_response
from pod_worker.core.clock import Clock
from pod_worker.core.failure import RunError
from pod_worker.core.research.ideation import DEFAULT_GENERATIONS, DEFAULT_REFLECTIONS
from pod_worker.core.run import InvalidRunError, Json
from pod_worker.pipelines import find_pipeline
from pod_worker.store.ideation.hypotheses import Hypotheses, HypothesisRequest
from pod_worker.store.ideation.operations import ExperimentLaunch, HypothesisNotFoundError, IdeationOperations
from pod_worker.store.ideation.requests import IdeationRequest, IdeationRequests
from pod_worker.store.mongo import Mongo
from pod_worker.store.queue.run_queue import RunQueue
from pod_worker.store.views.read_models import ReadModels, RunFilter

RUNS_SHOWN = 10
Limit = Annotated[int, Query(ge=1, le=100)]
Text = Annotated[str, Body()]
Object = Annotated[dict[str, Json] | None, Body()]
Number = Annotated[int, Body()]
Author = Annotated[str | None, Body()]
Id = Annotated[str | None, Body()]
Flag = Annotated[bool, Body()]


def router(database: Mongo, clock: Clock) -> APIRouter:
    routes = _Routes(database, clock)
    api = APIRouter(tags=["ideation"])
    api.add_api_route("/api/hypotheses", routes.hypotheses, methods=["GET"])
    api.add_api_route("/api/hypotheses", routes.create, methods=["POST"])
    api.add_api_route("/api/hypotheses/{hypothesis_id}", routes.hypothesis, methods=["GET"])
    api.add_api_route("/api/hypotheses/{hypothesis_id}/launch", routes.launch, methods=["POST"])
    api.add_api_route("/api/ideation", routes.requests, methods=["GET"])
    api.add_api_route("/api/ideation", routes.submit, methods=["POST"])
    api.add_api_route("/api/ideation/{request_id}", routes.request, methods=["GET"])
    return api


class _Routes:
    def __init__(self, database: Mongo, clock: Clock) -> None:
        self._hypotheses = Hypotheses(database)
        self._requests = IdeationRequests(database)
        self._models = ReadModels(database)
        self._operations = IdeationOperations(database, RunQueue(database, clock), _check)

    def hypotheses(self, limit: Limit = 25, hidden: bool = False) -> Response:
        """Newest first, without their ideas."""
        return json_response({"items": self._hypotheses.newest(limit, hidden)})

    def hypothesis(self, hypothesis_id: str) -> Response:
        """The hypothesis with its last ideation requests and runs."""
        found = self._hypotheses.document(hypothesis_id)
        if found is None:
            raise _not_found(f"there is no hypothesis {hypothesis_id[:200]!r}")
        runs = self._models.runs(RunFilter(hypothesis_id=hypothesis_id), RUNS_SHOWN).items
        requests = self._requests.newest(RUNS_SHOWN, hypothesis_id)
        return json_response({"hypothesis": found, "requests": requests, "runs": runs})

    def create(
        self,
        title: Text,
        idea: Text,
        context: Annotated[str | None, Body()] = None,
        idea_json: Annotated[dict[str, Json] | None, Body(alias="ideaJson")] = None,
        ideate: Flag = False,
        reflections: Number = DEFAULT_REFLECTIONS,
        generations: Annotated[int, Body(alias="maxNumGenerations")] = DEFAULT_GENERATIONS,
        launch: Flag = False,
        params: Object = None,
        by: Author = None,
        id: Id = None,
    ) -> Response:
        """201 with the ids. `params` are those of the experiment that `launch` asks for.

        A repeated `id` stores nothing twice.
        """
        name, author = id or str(ULID()), by or "api"
        request_id, run_id = f"{name}-ideation" if id else str(ULID()), f"{name}-run" if id else str(ULID())
        hypothesis = HypothesisRequest(
            id=name, title=title, text=idea, context=context, idea=idea_json, created_by=author
        )
        request = IdeationRequest(
            id=request_id,
            hypothesis_id=name,
            reflections=reflections,
            max_num_generations=generations,
            created_by=author,
        )
        asked = ExperimentLaunch(hypothesis_id=name, run_id=run_id, params=params or {}, by=author)
        with _Refusals():
            self._operations.create(hypothesis, request if ideate else None, asked if launch else None)
        shown = {"id": name, "ideationId": request_id if ideate else None, "runId": run_id if launch else None}
        return json_response(shown, 201)

    def launch(
        self,
        hypothesis_id: str,
        index: Annotated[int | None, Body(alias="ideaIndex")] = None,
        params: Object = None,
        by: Author = None,
        id: Id = None,
    ) -> Response:
        """201 with the run's id. `ideaIndex` selects an idea of the current request first."""
        asked = ExperimentLaunch(
            hypothesis_id=hypothesis_id, run_id=id or str(ULID()), index=index, params=params or {}, by=by or "api"
        )
        with _Refusals():
            run = self._operations.launch(asked)
        return json_response({"id": run.id, "status": run.status.value}, 201)

    def requests(
        self, hypothesis_id: Annotated[str | None, Query(alias="hypothesisId")] = None, limit: Limit = 25
    ) -> Response:
        """Newest first, without their ideas, in the state of their runs."""
        return json_response({"items": self._requests.newest(limit, hypothesis_id)})

    def request(self, request_id: str) -> Response:
        """The request with its ideas, in the state of its run."""
        found = self._requests.get(request_id)
        if found is None:
            raise _not_found(f"there is no ideation request {request_id[:200]!r}")
        return json_response(found)

    def submit(
        self,
        hypothesis_id: Annotated[str, Body(alias="hypothesisId")],
        reflections: Number = DEFAULT_REFLECTIONS,
        generations: Annotated[int, Body(alias="maxNumGenerations")] = DEFAULT_GENERATIONS,
        params: Object = None,
        by: Author = None,
        id: Id = None,
    ) -> Response:
        """201 with the request, whose run has the same id.

        A repeated `id` queues nothing twice.
        """
        request = IdeationRequest(
            id=id or str(ULID()),
            hypothesis_id=hypothesis_id,
            reflections=reflections,
            max_num_generations=generations,
            params=params or {},
            created_by=by or "api",
        )
        with _Refusals():
            return json_response(self._operations.submit(request), 201)


class _Refusals:
    """Turns refusals of the operations into problems."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, HypothesisNotFoundError):
            raise _not_found(str(error)) from None
        if isinstance(error, RunError | InvalidRunError):
            raise ProblemError(422, "invalid_input", str(error)) from None


def _check(pipeline: str, params: dict[str, Json]) -> dict[str, Json]:
    return find_pipeline(pipeline).check_params(params)


def _not_found(detail: str) -> ProblemError:
    return ProblemError(404, "not_found", detail)

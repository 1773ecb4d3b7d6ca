"""The ideation stage: rounds of proposal and criticism for each idea.

Each finished idea is saved and emitted at once, so a crash or a cap loses none. A reply that stays invalid costs
its own idea only. The stage knows a model and a literature index by their ports; without an index it goes on and
says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pod_worker.core.failure import FailureCode, RunError, truncate
from pod_worker.core.payload import IdeationFailed, IdeationGenerated, IdeationStarted, StageProgress
from pod_worker.core.research.completion import CompletionClient, CompletionRequest
from pod_worker.core.research.idea import Idea, read_idea
from pod_worker.core.research.ideation import IDEA_LIMIT_BYTES, idea_size, usable_ideas
from pod_worker.core.research.literature import LiteratureSearch, Work
from pod_worker.core.run import Json
from pod_worker.core.stage import ArtifactKind, Context
from pod_worker.stages.ideation.diversity import repeated_title
from pod_worker.stages.ideation.params import IdeationParams
from pod_worker.stages.ideation.prompts import propose_request, reflect_request

FILE_NAME = "ideas.json"
WORKS_LIMIT = 8  # of one search
QUERY_LIMIT = 200  # characters
FAILED_IN_A_ROW = 2  # then the model is at fault, not one reply
_REASON_LIMIT = 300


@dataclass(slots=True)
class IdeationState:
    """What an attempt saves for the next one."""

    ideas: list[Idea] = field(default_factory=list)
    tried: int = 0  # generations, with those that brought no idea
    dropped: list[str] = field(default_factory=list)  # why, one sentence each
    is_scripted: bool = False  # the scripted model wrote a part of it

    @classmethod
    def read(cls, saved: Mapping[str, Json]) -> IdeationState:
        tried, dropped = saved.get("tried"), saved.get("dropped")
        return cls(
            [read_idea(each) for each in usable_ideas(saved.get("ideas"))],
            tried if isinstance(tried, int) else 0,
            [str(reason) for reason in dropped] if isinstance(dropped, list) else [],
            saved.get("is_scripted") is True,
        )

    def to_json(self) -> dict[str, Json]:
        return {
            "ideas": self.to_ideas(),
            "tried": self.tried,
            "dropped": self.dropped[-20:],
            "is_scripted": self.is_scripted,
        }

    def to_ideas(self) -> list[dict[str, Json]]:
        return [idea.to_json() for idea in self.ideas]


class IdeaRefusedError(Exception):
    """The reply holds no usable idea; the message tells the model and people why."""


def run_ideation(
    context: Context,
    params: IdeationParams,
    client: CompletionClient,
    literature: LiteratureSearch | None,
    tasks: Sequence[Mapping[str, Json]] = (),
    further_state: Callable[[], dict[str, Json]] = dict,
) -> dict[str, Json]:
    """The summary of the stage.

    `tasks` are the facts of the tasks on offer (name, title, description, metric). `further_state` is called
    for each saved state, and its fields are saved too. Raises RunError: LLM_ERROR without a single idea, and what
    the client raises while the run can still be retried.
    """
    ideation = _Ideation(context, params, client, literature, tasks, further_state)
    context.emit(IdeationStarted())
    try:
        return ideation.run()
    except RunError as error:
        context.emit(IdeationFailed(code=error.code.value, message=truncate(error.message, 2_000)))
        raise


class _Ideation:
    def __init__(
        self,
        context: Context,
        params: IdeationParams,
        client: CompletionClient,
        literature: LiteratureSearch | None,
        tasks: Sequence[Mapping[str, Json]],
        further_state: Callable[[], dict[str, Json]],
    ) -> None:
        self._context, self._params, self._client, self._tasks = context, params, client, tasks
        self._further_state = further_state
        self._literature = literature
        self._literature_problem = None if literature else "no literature index is configured"
        self._works: dict[str, tuple[Work, ...]] = {}  # query -> what was found
        self._state = IdeationState.read(context.saved_state)
        self._ended_early: str | None = None

    def run(self) -> dict[str, Json]:
        if self._state.ideas:  # the events of the attempt before may have been lost with its pod
            self._emit_ideas()
        self._generate_all()
        if not self._state.ideas:
            reasons = "; ".join(self._state.dropped[-3:]) or "no generation was tried"
            raise RunError(FailureCode.LLM_ERROR, f"no usable idea in {self._state.tried} generations: {reasons}")
        return self._publish()

    # ── generations ─────────────────────────────────────────────────────────────────────────────────────

    def _generate_all(self) -> None:
        failed_in_a_row = 0
        limit = self._limit()
        while self._state.tried < limit:
            try:
                self._add(self._generate())
                failed_in_a_row = 0
            except IdeaRefusedError as error:
                self._drop(str(error))
            except RunError as error:
                if error.code is FailureCode.BUDGET_EXCEEDED and self._state.ideas:
                    self._end_early(error)
                    return
                failed_in_a_row += 1
                if error.code is not FailureCode.LLM_ERROR or failed_in_a_row == FAILED_IN_A_ROW:
                    raise
                self._drop(error.message)

    def _limit(self) -> int:
        """Generations after which the stage ends.

        When none has brought an idea, the next attempt tries as many again.
        """
        planned, tried = self._params.max_num_generations, self._state.tried
        return planned if self._state.ideas or tried < planned else tried + planned

    def _generate(self) -> Idea:
        """One idea, criticised.

        Raises IdeaRefusedError when two proposals in a row cannot be used.
        """
        try:
            idea = self._propose(None)
        except IdeaRefusedError as error:
            idea = self._propose(str(error))
        for round_number in range(1, self._params.reflections + 1):
            reply = self._ask(
                reflect_request(
                    self._params,
                    idea.to_json(),
                    number=self._state.tried,
                    round_number=round_number,
                    prior=self._prior_titles(),
                    tasks=self._tasks,
                    works=self._search(idea.title),
                    stage=self._context.stage,
                )
            )
            try:
                idea = self._checked(reply)
            except IdeaRefusedError as error:
                self._context.log(f"a reflection is left out: {error}", level="warning")
                break
            if reply.get("is_final") is True:
                break
        return idea

    def _propose(self, problem: str | None) -> Idea:
        request = propose_request(
            self._params,
            number=self._state.tried,
            prior=self._prior_titles(),
            tasks=self._tasks,
            works=self._search(self._params.title or self._params.idea),
            stage=self._context.stage,
            problem=problem,
        )
        return self._checked(self._ask(request))

    def _ask(self, request: CompletionRequest) -> Mapping[str, Json]:
        self._context.stop.check()
        completion = self._client.complete(request)
        self._state.is_scripted |= completion.is_scripted
        return completion.value if isinstance(completion.value, dict) else {}

    def _checked(self, reply: Mapping[str, Json]) -> Idea:
        """The idea of a reply. Raises IdeaRefusedError."""
        try:
            idea = read_idea(reply.get("idea"))
        except RunError as error:
            raise IdeaRefusedError(error.message) from None
        if idea.task and idea.task not in {task.get("name") for task in self._tasks}:
            idea = replace(idea, task="")
        if (size := idea_size(idea.to_json())) > IDEA_LIMIT_BYTES:
            raise IdeaRefusedError(f"the idea has {size} bytes; at most {IDEA_LIMIT_BYTES} are kept")
        if title := repeated_title(idea, self._state.ideas, self._params.prior_titles):
            raise IdeaRefusedError(f"the idea {idea.title[:200]!r} repeats {title[:200]!r}")
        return idea

    def _prior_titles(self) -> list[str]:
        return [*self._params.prior_titles, *(idea.title for idea in self._state.ideas)]

    # ── literature ──────────────────────────────────────────────────────────────────────────────────────

    def _search(self, text: str) -> tuple[Work, ...]:
        """Works about the text; none, and a note, without an index."""
        query = " ".join(text.split())[:QUERY_LIMIT]
        if self._literature is None or self._literature_problem:
            return ()
        if query not in self._works:
            self._context.stop.check()
            try:
                self._works[query] = self._literature.search(query, WORKS_LIMIT)
            except RunError as error:
                self._literature_problem = truncate(error.message, _REASON_LIMIT)
                self._context.log(f"ideation goes on without literature: {error.message}", level="warning")
                return ()
        return self._works[query]

    # ── results ─────────────────────────────────────────────────────────────────────────────────────────

    def _add(self, idea: Idea) -> None:
        self._state.ideas.append(idea)
        self._save()
        self._emit_ideas()
        self._context.log(f"idea {len(self._state.ideas)}: {idea.title}")

    def _drop(self, reason: str) -> None:
        self._state.dropped.append(truncate(reason, _REASON_LIMIT))
        self._context.log(f"generation {self._state.tried + 1} brings no idea: {reason}", level="warning")
        self._save()

    def _save(self) -> None:
        self._state.tried += 1
        self._context.checkpoint(self._further_state() | self._state.to_json())
        planned, tried = self._params.max_num_generations, self._state.tried
        self._context.emit(
            StageProgress(
                stage=self._context.stage,
                progress=min(tried / planned, 1.0),
                iteration=tried,
                max_iterations=max(planned, tried),
            )
        )

    def _end_early(self, error: RunError) -> None:
        self._ended_early = error.message
        self._context.log(f"ideation ends with {len(self._state.ideas)} ideas: {error.message}", level="warning")

    def _emit_ideas(self) -> None:
        ideas = self._state.to_ideas()
        self._context.emit(
            IdeationGenerated(
                count=len(ideas),
                top_k=[idea.title for idea in self._state.ideas],
                ideas=ideas,
                hypothesis_id=self._params.hypothesis_id or None,
                is_scripted=self._state.is_scripted or None,
            )
        )

    def _publish(self) -> dict[str, Json]:
        summary: dict[str, Json] = {
            "ideas": len(self._state.ideas),
            "generations": self._state.tried,
            "dropped": self._state.dropped,
            "literature": self._literature_note(),
            "ended_early": self._ended_early,
            "is_scripted": self._state.is_scripted,
        }
        path = self._context.work_dir / FILE_NAME
        content = {"hypothesis_id": self._params.hypothesis_id or None, "title": self._params.title, **summary}
        content["ideas"] = self._state.to_ideas()
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        artifact = self._context.artifacts.publish(path, ArtifactKind.DATA, name=FILE_NAME)
        titles = [idea.title for idea in self._state.ideas]
        return self._further_state() | summary | {"titles": titles, "artifact": artifact.key}

    def _literature_note(self) -> dict[str, Json]:
        works = {work.id for found in self._works.values() for work in found}
        name = self._literature.name if self._literature else None
        return {"index": name, "works": len(works), "problem": self._literature_problem}

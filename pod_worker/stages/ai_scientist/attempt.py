"""One attempt of AI-Scientist-v2: preflight, program, results and end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pod_worker.command.execution.environment import inherited, with_programs
from pod_worker.command.execution.failure import start_failure
from pod_worker.command.execution.process import CommandEnd, CommandProcess
from pod_worker.core.credentials.secret import Redactor, secret_values
from pod_worker.core.failure import Failure, FailureCode, Interruption, classify
from pod_worker.core.model_access import ModelAccess
from pod_worker.core.payload import PaperGenerated, ValidationCompleted, ValidationStarted
from pod_worker.core.run import Json
from pod_worker.core.stage import ArtifactKind, Context
from pod_worker.process.supervised_thread import SupervisedThread
from pod_worker.stages.ai_scientist.continuation import VARIABLE
from pod_worker.stages.ai_scientist.ending import PROGRAM, failure_of_program, has_failed_review
from pod_worker.stages.ai_scientist.finished_search import FinishedSearch
from pod_worker.stages.ai_scientist.isolation import isolated
from pod_worker.stages.ai_scientist.journal import is_search_finished, read_tokens, recorded_nodes
from pod_worker.stages.ai_scientist.output import OutputFacts, OutputReader
from pod_worker.stages.ai_scientist.params import AiScientistParams
from pod_worker.stages.ai_scientist.preflight import LaunchPlan, check_imports, prepare
from pod_worker.stages.ai_scientist.program import (
    ProgramFolder,
    adapted_config,
    launcher_words,
    program_words,
)
from pod_worker.stages.ai_scientist.progress import ProgressReporter
from pod_worker.stages.ai_scientist.results import (
    OriginalReview,
    ResultFile,
    find_paper,
    publish_masked,
    publish_results,
    read_review,
)

FOLDER = "ai_scientist"
LOOK_SECONDS = 2.0
JOIN_SECONDS = 3600.0  # it may be storing the finished experiments
NOTICES = (
    "AI-Scientist-v2 cannot limit what it spends on language models; only the run's max_duration ends it",
    "AI-Scientist-v2 executes model-written programs without a sandbox: they can read its keys",
)


def run_ai_scientist(context: Context, params: AiScientistParams) -> dict[str, Json]:
    access = context.model_access or ModelAccess()
    plan = prepare(params, access)
    for notice in NOTICES:
        context.log(notice, "warning")
    if context.run.max_duration_seconds is None:
        context.log("the run has no max_duration: it ends when AI-Scientist-v2 does", "warning")
    folder = ProgramFolder(context.work_dir / FOLDER)
    redactor = Redactor([*access.secrets(), *secret_values(os.environ)])
    search = FinishedSearch(context, folder, redactor)
    kept = search.find()
    folder.rebuild(params, plan.checkout, kept)
    env = program_environment(plan, kept)
    check_imports(plan, folder.path, env)
    search.record_start()
    return OriginalAttempt(context, plan, folder, search, redactor).execute(env, kept)


class OriginalAttempt:
    """One start of the program."""

    def __init__(
        self, context: Context, plan: LaunchPlan, folder: ProgramFolder, search: FinishedSearch, redactor: Redactor
    ) -> None:
        self._context, self._plan, self._folder = context, plan, folder
        self._search, self._redactor = search, redactor

    def execute(self, env: Mapping[str, str], kept: str | None) -> dict[str, Json]:
        log = self._context.work_dir / FOLDER / "output.log"
        with OutputReader(log, self._redactor) as output:
            progress = self._progress(output.facts, kept)
            watch = SupervisedThread("progress", lambda: _look(progress), stuck_seconds=None)
            watch.start()
            try:
                end = self._run(env, kept, output)
            finally:
                watch.stop(JOIN_SECONDS)
        if end.was_stopped:
            self._context.stop.check()
        progress.look()
        return self._conclude(end, output.facts, progress, self._folder.newest_experiment(kept), log)

    def _progress(self, facts: OutputFacts, kept: str | None) -> ProgressReporter:
        params = self._plan.params
        return ProgressReporter(
            self._context,
            lambda: self._folder.newest_experiment(kept),
            facts,
            adapted_config(params, self._plan.checkout.config),
            self._search.save,
            wants_paper=params.wants_paper,
            is_continued=kept is not None,
        )

    def _run(self, env: Mapping[str, str], kept: str | None, output: OutputReader) -> CommandEnd:
        words = launcher_words(self._plan.params, self._plan.checkout.options, self._context.run.attempt)
        command = program_words(self._plan.interpreter, words, is_continued=kept is not None)
        argv = isolated(self._plan.prefix, command)
        self._context.stop.check()
        try:
            process = CommandProcess(argv, self._folder.path, env, output.writer)
        except OSError as error:
            raise start_failure(error, argv[0], self._folder.path) from error
        output.started()
        return process.wait(self._context.stop)

    def _conclude(
        self, end: CommandEnd, facts: OutputFacts, progress: ProgressReporter, experiment: Path | None, log: Path
    ) -> dict[str, Json]:
        """Results first: a failure of the paper loses no experiment."""
        self._publish_log(log)
        paper = find_paper(experiment) if experiment else None
        nodes = recorded_nodes(experiment) if experiment else {}
        published = publish_results(self._context, experiment, self._redactor) if experiment else []
        failure = failure_of_program(
            end,
            facts,
            has_search=experiment is not None and is_search_finished(experiment),
            has_good_node=any(node.is_good for node in nodes.values()),
            lacks_paper=self._plan.params.wants_paper and paper is None,
        )
        if failure is not None:
            progress.fail(classify(failure, self._context.stage))
            raise failure
        assert experiment is not None  # a success has results
        for artifact in published:
            if artifact.kind == ArtifactKind.PAPER.value:
                self._context.emit(PaperGenerated(artifact_key=artifact.key))
        if has_failed_review(end, facts):
            progress.fail(Failure(FailureCode.LLM_ERROR, f"the review failed: {facts.last_error}"))
        progress.finish()
        return self._summary(experiment, facts, len(nodes))

    def _publish_log(self, log: Path) -> None:
        for path in (log.with_suffix(".1"), log):
            publish_masked(self._context, ResultFile(path, ArtifactKind.LOG, f"logs/{path.name}"), self._redactor)

    def _summary(self, experiment: Path, facts: OutputFacts, nodes: int) -> dict[str, Json]:
        review = self._review(experiment, facts) if self._plan.params.wants_review else None
        if review:
            self._context.emit(ValidationStarted(model=PROGRAM))
            self._context.emit(
                ValidationCompleted(verdict=review.verdict, scores=review.scores or None, notes=review.notes)
            )
        return {
            **self._search.state,
            "commit": self._plan.checkout.commit,
            "nodes": nodes,
            "verdict": review.verdict if review else None,
            "spending_cap": None,
            "cost": cost_of(experiment),
        }

    def _review(self, experiment: Path, facts: OutputFacts) -> OriginalReview:
        reason = f": {facts.last_error}" if facts.last_error else ""
        return read_review(experiment) or OriginalReview(
            "inconclusive", {}, f"{PROGRAM} wrote no review of its paper{reason}"
        )


def _look(progress: ProgressReporter) -> float | None:
    try:
        progress.look()
    except Interruption:
        return None  # the process is being stopped too, and the main thread reports it
    return LOOK_SECONDS


def program_environment(plan: LaunchPlan, kept: str | None) -> dict[str, str]:
    """This process's variables without the worker's settings, and the keys."""
    env = {**inherited(os.environ), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **plan.keys}
    if kept:
        env[VARIABLE] = f"experiments/{kept}"
    return with_programs(env, plan.interpreter.parent)


def cost_of(experiment: Path) -> dict[str, Any]:
    """What the original counted, in the form of `runs cost`.

    It does not count the calls of its search.
    """
    operations = {
        f"writing: {each.model}": {
            "calls": 0,  # the original counts none
            "input_tokens": each.prompt,
            "output_tokens": each.completion,
            "cached_tokens": each.cached,
            "usd": each.usd,
        }
        for each in read_tokens(experiment)
    }
    return {
        "tokens": sum(each["input_tokens"] + each["output_tokens"] for each in operations.values()),
        "usd": sum(each["usd"] for each in operations.values()),
        "is_complete": False,
        "operations": operations,
    }

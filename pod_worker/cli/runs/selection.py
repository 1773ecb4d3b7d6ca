"""Several runs for one command: by ids and names, or by label, queue and status."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from pod_worker.cli.completion import complete_queues, complete_run_ids, complete_statuses, label_option
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import parse_pair, parse_statuses
from pod_worker.cli.runs.lookup import resolve_run
from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels, RunFilter

NAMED = 5


@dataclass(frozen=True, slots=True)
class RunSelection:
    """What the command line says about which runs a command is for."""

    words: tuple[str, ...]  # ids, beginnings of ids, names
    labels: tuple[str, ...] = ()
    queue: str | None = None
    statuses: tuple[str, ...] = ()
    default_statuses: tuple[str, ...] = ()

    @property
    def is_by_filter(self) -> bool:
        return bool(self.labels or self.statuses) or self.queue is not None

    def find(self, models: ReadModels) -> SelectedRuns:
        """The runs, each once, and the words that name none.

        Raises CommandError for an empty selection, and for a single word that names no run.
        """
        if not self.words and not self.is_by_filter:
            raise CommandError("Name runs, or select them with --label, --queue or --status.", ExitCode.USAGE)
        ids: list[str] = []
        missing: dict[str, str] = {}
        for word in dict.fromkeys(self.words):
            try:
                ids.append(str(resolve_run(models, word)["_id"]))
            except CommandError as error:
                if len(self.words) == 1 and not self.is_by_filter:
                    raise
                missing[word] = error.message
        if self.is_by_filter:
            ids += models.ids(self._filter())
        return SelectedRuns(list(dict.fromkeys(ids)), missing)

    def _filter(self) -> RunFilter:
        return RunFilter(
            self.statuses or self.default_statuses,
            queue=self.queue,
            labels=dict(map(parse_pair, self.labels)),
        )


@dataclass(frozen=True, slots=True)
class SelectedRuns:
    ids: list[str]
    missing: dict[str, str]  # word -> why it names no run

    def missing_rows(self) -> list[Document]:
        """Rows of a command's result for the words that name no run."""
        return [
            {"id": word, "result": "missing", "verdict": "missing", "status": None, "message": message}
            for word, message in self.missing.items()
        ]


def runs_selection(
    kind: str, default_statuses: Sequence[str]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds RUN… and the options that select runs; the command gets `selection`.

    `kind` is what the default statuses are called: open, or failed and canceled.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(
            *,
            run_ids: tuple[str, ...],
            labels: tuple[str, ...],
            queue: str | None,
            words: tuple[str, ...],
            **rest: Any,
        ) -> Any:
            chosen = RunSelection(run_ids, labels, queue, parse_statuses(words), tuple(default_statuses))
            return command(selection=chosen, **rest)

        return _with_options(call, kind)

    return decorate


def _with_options(command: Callable[..., Any], kind: str) -> Callable[..., Any]:
    runs = click.argument("run_ids", metavar="[RUN]...", nargs=-1, shell_complete=complete_run_ids)
    label = label_option(f"All {kind} runs with this label (with all that are given).")
    queue = click.option("--queue", shell_complete=complete_queues, help=f"All {kind} runs of this queue.")
    status = click.option(
        "--status",
        "words",
        multiple=True,
        metavar="STATUS",
        shell_complete=complete_statuses,
        help=f"All runs with this status, instead of the {kind} ones; repeat it or use commas.",
    )
    return runs(label(queue(status(command))))


def named(ids: Sequence[str]) -> str:
    """The first few ids, and how many there are."""
    rest = len(ids) - NAMED
    return ", ".join(ids[:NAMED]) + (f" and {rest} more ({len(ids)} runs)" if rest > 0 else "")

"""Writes a paper: a model's draft, corrected, compiled and repaired within bounds.

The draft names numbers by key. What no rewriting corrects stays visible: the checks do not hold then.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from pod_worker.core.execution import CodeRunner
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.research.completion import CompletionClient
from pod_worker.core.run import Json
from pod_worker.core.stage import StopSignal, stage_title
from pod_worker.paper.evidence.numbers import ablation_key, build_numbers, stage_key
from pod_worker.paper.evidence.results import RecordedResults, write_json
from pod_worker.paper.prompts import STRING, array_of, as_objects, as_text, build_request, closed_object
from pod_worker.paper.sources import PaperSources, document_parts, draft_problems
from pod_worker.paper.typesetting.bibliography import bibtex
from pod_worker.paper.typesetting.document import Draft, DraftSection, render, used_citations
from pod_worker.paper.typesetting.latex import (
    JOB,
    PDF_LIMIT_BYTES,
    Compilation,
    LatexTools,
    compile_paper,
    log_excerpt,
    read_plain_file,
    source_excerpt,
)

REWRITES_LIMIT = 2
REPAIRS_LIMIT = 3
SECTIONS_LIMIT = 12
BODY_LIMIT = 20_000
INSTRUCTIONS = r"""You write a short workshop paper about finished experiments: abstract and sections as LaTeX.
Rules, checked by a program:
- Write every number as \result{key} with a key of the ledger, also in formulas. Write no digit of a result
  yourself.
- Cite only given keys with \citep or \citet. Refer to every figure with \ref{fig:LABEL}, to tables with
  \ref{tab:LABEL}.
- Write text, lists and formulas only: no figures, tables, preamble, files or own commands.
- Claim an improvement only where the findings say that it is beyond the noise. Report negative results as such.
- The paper has at most {pages} pages with figures and tables, without references."""
REPAIR_INSTRUCTIONS = """The LaTeX compiler refused the paper. Return replacements of exact pieces of the text that
remove the first error and change nothing else. `old` is a piece of the title, the abstract or a body."""
WRITE_SCHEMA = closed_object(
    {
        "title": STRING,
        "abstract": STRING,
        "sections": array_of(closed_object({"heading": STRING, "body": STRING}), SECTIONS_LIMIT),
    }
)
REPAIR_SCHEMA = closed_object({"replacements": array_of(closed_object({"old": STRING, "new": STRING}), 20)})


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPaper:
    """What the checks and the report need; stored as paper.json."""

    draft: Draft
    pages: int
    body_pages: int
    undefined: tuple[str, ...]
    repairs: int
    is_plain: bool
    notices: tuple[str, ...]


def write_paper(
    sources: PaperSources,
    folder: Path,
    tools: LatexTools,
    client: CompletionClient,
    runner: CodeRunner,
    stop: StopSignal,
) -> WrittenPaper:
    """Write paper.pdf, paper.tex and their records into the folder of the paper.

    Figures are expected in `figures/`. Raises RunError(LATEX_ERROR) when even the text without the writer's own
    LaTeX does not compile; the log is in paper.log then.
    """
    return _Writer(sources, folder, tools, client, runner, stop).write()


class _Writer:
    def __init__(
        self,
        sources: PaperSources,
        folder: Path,
        tools: LatexTools,
        client: CompletionClient,
        runner: CodeRunner,
        stop: StopSignal,
    ) -> None:
        self._sources, self._folder, self._tools = sources, folder, tools
        self._client, self._runner, self._stop = client, runner, stop
        self._repairs = 0
        self._is_plain = False

    def write(self) -> WrittenPaper:
        for name in (f"{JOB}.pdf", f"{JOB}.json"):  # of an earlier attempt
            (self._folder / name).unlink(missing_ok=True)
        draft = self._draft()
        draft, compilation = self._compile(draft)
        limit = self._sources.page_limit
        if compilation.body_pages > limit:
            problem = f"the paper has {compilation.body_pages} pages; at most {limit} are allowed. Shorten it."
            draft, compilation = self._compile(self._rewrite(draft, (problem,)))
        paper = WrittenPaper(
            draft=draft,
            pages=compilation.pages,
            body_pages=compilation.body_pages,
            undefined=compilation.undefined,
            repairs=self._repairs,
            is_plain=self._is_plain,
            notices=self._sources.notices,
        )
        write_json(self._folder / "numbers.json", build_numbers(self._sources.results))
        write_json(self._folder / "references.json", self._sources.references)
        write_json(self._folder / "paper.json", paper)
        return paper

    def _draft(self) -> Draft:
        draft = self._ask(())
        for _ in range(REWRITES_LIMIT):
            if not draft.problems:
                break
            draft = self._rewrite(draft, draft.problems)
        return draft

    def _rewrite(self, draft: Draft, problems: tuple[str, ...]) -> Draft:
        return self._ask(problems, draft)

    def _ask(self, problems: tuple[str, ...], previous: Draft | None = None) -> Draft:
        self._stop.check()
        facts = writing_facts(self._sources)
        if previous is not None:
            facts |= {"previous": _shown(previous), "problems": list(problems)[:40]}
        instructions = INSTRUCTIONS.replace("{pages}", str(self._sources.page_limit))
        request = build_request("paper.write", instructions, facts, WRITE_SCHEMA, stage="paper")
        completion = self._client.complete(request)
        value = completion.value if isinstance(completion.value, dict) else {}
        draft = Draft(
            title=as_text(value.get("title"), 300),
            abstract=as_text(value.get("abstract"), 4_000),
            sections=tuple(
                DraftSection(heading=as_text(each.get("heading"), 200), body=as_text(each.get("body"), BODY_LIMIT))
                for each in as_objects(value.get("sections"), SECTIONS_LIMIT)
            ),
            model=completion.model,
            is_scripted=completion.is_scripted,
        )
        return replace(draft, problems=draft_problems(draft, self._sources))

    def _compile(self, draft: Draft) -> tuple[Draft, Compilation]:
        """Compile and correct from the log; at last without the draft's own LaTeX."""
        for attempt in range(1 + REPAIRS_LIMIT):
            compilation = self._build(draft)
            if compilation.is_ok:
                return draft, compilation
            if not compilation.is_of_text:
                break  # time, disk or a signal ended it: no other text corrects that
            if attempt < REPAIRS_LIMIT:
                draft = self._repair(draft, compilation)
        self._stop.check()
        self._is_plain = True
        compilation = self._build(draft)
        if not compilation.is_ok:
            raise RunError(
                FailureCode.LATEX_ERROR,
                f"the paper does not compile: {compilation.error}. The log is in paper/paper.log.",
            )
        return draft, compilation

    def _repair(self, draft: Draft, compilation: Compilation) -> Draft:
        self._stop.check()
        self._repairs += 1
        source = render(document_parts(self._sources, draft))
        facts: dict[str, Json] = {
            "error": compilation.error,
            "log": log_excerpt(compilation.log),
            "excerpt": source_excerpt(source, compilation.error),
            "text": _shown(draft),
        }
        request = build_request(
            "paper.repair", REPAIR_INSTRUCTIONS, facts, REPAIR_SCHEMA, stage="paper", temperature=0.2
        )
        value = self._client.complete(request).value
        listed = as_objects(value.get("replacements"), 20) if isinstance(value, dict) else []
        for each in listed:
            draft = _replaced(draft, as_text(each.get("old"), BODY_LIMIT), as_text(each.get("new"), BODY_LIMIT))
        return replace(draft, problems=draft_problems(draft, self._sources))

    def _build(self, draft: Draft) -> Compilation:
        """Compile in a folder of its own, and take over what came out of it."""
        build = self._folder / "build"
        if build.exists():
            self._runner.remove(build)
        parts = document_parts(self._sources, draft, self._is_plain)
        (build / "figures").mkdir(parents=True)
        for figure in parts.referenced_figures:
            shutil.copyfile(self._folder / "figures" / figure.image, build / "figures" / figure.image)
        sources = {f"{JOB}.tex": render(parts), "references.bib": bibtex(used_citations(parts))}
        for name, text in sources.items():
            (build / name).write_text(text, encoding="utf-8")
            (self._folder / name).write_text(text, encoding="utf-8")
        compilation = compile_paper(
            build, self._tools, self._runner, self._stop, has_references=bool(used_citations(parts))
        )
        (self._folder / f"{JOB}.log").write_text(compilation.log, encoding="utf-8")
        pdf = read_plain_file(build / f"{JOB}.pdf", PDF_LIMIT_BYTES) if compilation.is_ok else None
        if pdf:
            (self._folder / f"{JOB}.pdf").write_bytes(pdf)
        self._runner.remove(build)
        return compilation


def _replaced(draft: Draft, old: str, new: str) -> Draft:
    """The draft with one exact piece replaced; unchanged where it is not found."""
    if not old:
        return draft
    return replace(
        draft,
        title=draft.title.replace(old, new, 1),
        abstract=draft.abstract.replace(old, new, 1),
        sections=tuple(replace(each, body=each.body.replace(old, new, 1)) for each in draft.sections),
    )


def _shown(draft: Draft) -> dict[str, Json]:
    return {
        "title": draft.title,
        "abstract": draft.abstract,
        "sections": [{"heading": each.heading, "body": each.body} for each in draft.sections],
    }


def writing_facts(sources: PaperSources) -> dict[str, Json]:
    """What the writer knows, as data and as the text of its messages."""
    results, parts = sources.results, document_parts(sources, Draft(title="", abstract="", sections=()))
    return {
        "idea": sources.idea.to_json(),
        "task": results.task,
        "metric": {
            "name": results.metric.name,
            "direction": results.metric.direction,
            "unit": results.metric.unit,
        },
        "numbers": [{"key": each.key, "text": each.text, "meaning": each.meaning} for each in parts.numbers],
        "findings": _findings(results),
        "figures": [{"label": figure.label, "caption": figure.caption} for figure in parts.figures],
        "tables": [
            {"label": table.label, "caption": table.caption, "rows": [list(row) for row in table.texts]}
            for table in parts.tables
        ],
        "references": [
            {
                "key": each.key,
                "title": each.work.title,
                "authors": list(each.work.authors),
                "year": each.work.year,
                "abstract": each.work.abstract[:600],
            }
            for each in parts.citations
        ],
        "page_limit": sources.page_limit,
    }


def _findings(results: RecordedResults) -> list[Json]:
    """For each stage, and each ablation, what the search decided about noise."""
    baseline, full = results.baseline, results.full_method
    found: list[Json] = []
    for stage in results.method_stages:
        best = results.best_of(stage)
        if best is None or baseline is None or best.node_id == baseline.node_id:
            continue
        found.append(
            {
                "key": f"{stage_key(stage)}.gain",
                "stage": stage_title(stage),
                "change": results.label_of(best),
                "is_better_than_baseline_beyond_noise": results.is_beyond_noise(best, baseline),
            }
        )
    for index, node in enumerate(results.ablations, 1):
        if full is not None:
            key = f"{ablation_key(index)}.change"
            is_worse = results.is_beyond_noise(full, node)
            label = results.label_of(node)
            found.append({"key": key, "change": label, "is_worse_than_full_method_beyond_noise": is_worse})
    return found

"""A draft is corrected, compiled and repaired within bounds, and what comes out is a PDF with recorded numbers."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pod_worker.core.execution import ExecutionEnd, ExecutionRequest, ExecutionResult
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json
from pod_worker.core.stop_signal import StopSignal
from pod_worker.paper.evidence.numbers import build_numbers, by_key
from pod_worker.paper.evidence.results import read_json
from pod_worker.paper.sources import PaperSources, document_parts, draft_problems
from pod_worker.paper.typesetting.bibliography import bibtex
from pod_worker.paper.typesetting.document import Draft, DraftSection, render
from pod_worker.paper.typesetting.figures import FigureSet
from pod_worker.paper.typesetting.latex import LatexTools, check_toolchain, compile_paper, log_excerpt, read_pdf
from pod_worker.paper.writing import REPAIRS_LIMIT, REWRITES_LIMIT, WrittenPaper, write_paper, writing_facts
from tests.paper.conftest import TEXT, NoStop, PlainRunner, Writer

STOP = NoStop()


def make_draft(body: str, **fields: Json) -> Draft:
    section = DraftSection(heading="Results", body=body + r" See Figure~\ref{fig:stages}.")
    return Draft(title="Title", abstract="Abstract.", sections=(section,), **fields)


def changed(**fields: Json) -> dict[str, Json]:
    return copy.deepcopy(TEXT) | fields


def test_the_pdf_has_the_recorded_numbers_and_the_references(
    written: Path, sources: PaperSources, latex_tools: LatexTools, tmp_path: Path
) -> None:
    shutil.copyfile(written / "paper.pdf", tmp_path / "paper.pdf")
    reading = read_pdf(tmp_path / "paper.pdf", tmp_path, latex_tools, PlainRunner(), STOP)
    numbers = by_key(build_numbers(sources.results))
    text = reading.text.replace("\u2009", "")
    for key in ("stage3.best", "baseline", "stage3.gain", "ablation1.change"):
        assert numbers[key].text.replace(" ", "") in text.replace(" ", "").replace("\n", "")
    assert "When Does Label Smoothing Help?" in " ".join(text.split())
    assert "Figure 1" in text
    assert "??" not in text
    paper = read_json(written / "paper.json", WrittenPaper)
    assert paper.pages == reading.pages
    assert paper.undefined == ()
    assert paper.draft.problems == ()
    assert not (written / "build").exists()


def test_equal_parts_give_an_equal_source(sources: PaperSources, written: Path) -> None:
    draft = read_json(written / "paper.json", WrittenPaper).draft
    assert render(document_parts(sources, draft)) == (written / "paper.tex").read_text()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("We reach 0.97.", "'0.97' is not from the ledger"),
        (r"We reach \result{stage9.best}.", r"\result{stage9.best} is no key of the ledger"),
        (r"As \citet{smith2020fake}.", r"\cite{smith2020fake} is no given reference"),
        (r"Figure~\ref{fig:none}.", r"\ref{fig:none} does not exist"),
        (r"\input{/etc/passwd}", r"\input is forbidden"),
    ],
)
def test_a_draft_with_a_problem_is_written_again(
    sources: PaperSources, drawn: Path, latex_tools: LatexTools, tmp_path: Path, body: str, problem: str
) -> None:
    bad = changed(sections=[{"heading": "Results", "body": body + r" Figure~\ref{fig:stages}"}])
    draft = Draft(title="t", abstract="a", sections=(DraftSection(heading="h", body=bad["sections"][0]["body"]),))
    assert any(problem in each for each in draft_problems(draft, sources))
    client = Writer(paper__write=[bad, RunError(FailureCode.INTERNAL, "stop here")])
    with pytest.raises(RunError, match="stop here"):
        write_paper(sources, tmp_path, latex_tools, client, PlainRunner(), STOP)
    second = client.requests[1]
    assert any(problem in each for each in second.facts["problems"])
    assert second.facts["previous"]["sections"][0]["body"] == bad["sections"][0]["body"]
    assert problem in second.messages[1].text.replace("\\\\", "\\")


def test_rewriting_is_bounded_and_what_is_left_is_recorded(
    sources: PaperSources, drawn: Path, quick_tools: LatexTools, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(drawn, tmp_path / "paper"))
    client = Writer(paper__write=[changed(abstract="An accuracy of 0.97.")])
    paper = write_paper(sources, folder, quick_tools, client, PlainRunner(), STOP)
    assert client.count("paper.write") == 1 + REWRITES_LIMIT
    assert "0.97" in paper.draft.problems[0]


PROGRAMS = {
    "pdflatex": r"""#!/bin/sh
if grep -q 'left(' paper.tex; then echo './paper.tex:3: Missing right' > paper.log; exit 1; fi
printf '\\newlabel{pod-worker-end}{{}{%s}}' "$(grep -c 'fill the page' paper.tex)" > paper.aux
echo done > paper.log; echo '%PDF-1.5' > paper.pdf
""",
    "bibtex": "#!/bin/sh\n",
    "pdfinfo": "#!/bin/sh\necho 'Pages: 1'\n",
    "pdftotext": "#!/bin/sh\necho text\n",
}


@pytest.fixture(scope="module")
def quick_tools(tmp_path_factory: pytest.TempPathFactory) -> LatexTools:
    """Programs that answer as the real ones do, at once: for tests of what is around them."""
    folder = tmp_path_factory.mktemp("programs")
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return LatexTools(programs={name: folder / name for name in PROGRAMS}, folders=())


def test_the_compilers_log_leads_to_a_repair(
    sources: PaperSources, drawn: Path, latex_tools: LatexTools, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(drawn, tmp_path / "paper"))
    broken = r"$\left( x$"
    sections = [{"heading": "Results", "body": f"A formula {broken}. See Figure~\\ref{{fig:stages}}."}]
    client = Writer(
        paper__write=[changed(sections=sections)],
        paper__repair=[{"replacements": [{"old": broken, "new": "$x$"}]}],
    )
    paper = write_paper(sources, folder, latex_tools, client, PlainRunner(), STOP)
    assert paper.repairs == 1
    assert not paper.is_plain
    assert "$x$" in paper.draft.sections[0].body
    request = next(each for each in client.requests if each.operation == "paper.repair")
    assert "Missing" in request.facts["error"]
    assert broken in request.facts["excerpt"]


def test_a_text_that_no_repair_corrects_is_set_without_its_latex(
    sources: PaperSources, drawn: Path, quick_tools: LatexTools, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(drawn, tmp_path / "paper"))
    sections = [
        {"heading": "Results", "body": r"We reach \result{stage3.best} $\left( x$, Figure~\ref{fig:stages}."}
    ]
    client = Writer(paper__write=[changed(sections=sections)], paper__repair=[{"replacements": []}])
    runner = PlainRunner()
    paper = write_paper(sources, folder, quick_tools, client, runner, STOP)
    assert client.count("paper.repair") == REPAIRS_LIMIT
    assert paper.is_plain
    assert (folder / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert by_key(build_numbers(sources.results))["stage3.best"].latex in (folder / "paper.tex").read_text()


class LimitedRunner(PlainRunner):
    """Ends each first compilation of a text with a formula by a limit."""

    def execute(self, request: ExecutionRequest, stop: StopSignal) -> ExecutionResult:
        is_tex = request.argv[-1] == "paper.tex"
        if is_tex and "$x^2$" in (request.folder / "paper.tex").read_text():
            return ExecutionResult(end=ExecutionEnd.DISK, output="paper.tex:3: not the text's fault")
        return super().execute(request, stop)


def test_a_compilation_that_a_limit_ended_is_no_question_to_the_model(
    sources: PaperSources, drawn: Path, quick_tools: LatexTools, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(drawn, tmp_path / "paper"))
    client = Writer(paper__write=[changed(sections=[{"heading": "Results", "body": r"A formula $x^2$."}])])
    paper = write_paper(sources, folder, quick_tools, client, LimitedRunner(), STOP)
    assert client.count("paper.repair") == 0
    assert paper.is_plain


class FullDiskRunner(PlainRunner):
    """The compiler's last lines on a full disk, with the exit code that pdfTeX then has."""

    def __init__(self, output: str, exit_code: int) -> None:
        super().__init__()
        self._result = ExecutionResult(end=ExecutionEnd.EXITED, exit_code=exit_code, output=output)

    def execute(self, request: ExecutionRequest, stop: StopSignal) -> ExecutionResult:
        return self._result if request.argv[-1] == "paper.tex" else super().execute(request, stop)


@pytest.mark.parametrize(
    ("output", "exit_code"),
    [
        ("!pdfTeX error: pdflatex: fflush() failed (No space left on device)\n ==> Fatal error occurred", 1),
        ("/cmr10.pfb>fclose: No space left on device\n\nOutput written on paper.pdf (4 pages)", 0),
    ],
)
def test_a_full_disk_is_no_fault_of_the_text(
    sources: PaperSources, drawn: Path, quick_tools: LatexTools, tmp_path: Path, output: str, exit_code: int
) -> None:
    """Another pod has room: the run is retried, and no model is paid to correct the text."""
    folder = Path(shutil.copytree(drawn, tmp_path / "paper"))
    client = Writer(paper__write=[TEXT], paper__repair=[{"replacements": []}])
    with pytest.raises(RunError, match="pdflatex cannot write") as caught:
        write_paper(sources, folder, quick_tools, client, FullDiskRunner(output, exit_code), STOP)
    assert caught.value.code is FailureCode.DISK_FULL
    assert client.count("paper.repair") == 0


def test_a_compiler_that_always_fails_ends_with_its_log(
    sources: PaperSources, drawn: Path, quick_tools: LatexTools, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(drawn, tmp_path / "paper"))
    (folder / "paper.pdf").write_bytes(b"of an earlier attempt")
    broken = replace(quick_tools, programs={**quick_tools.programs, "pdflatex": Path("/bin/false")})
    client = Writer(paper__write=[TEXT], paper__repair=[{"replacements": []}])
    with pytest.raises(RunError, match="does not compile") as caught:
        write_paper(sources, folder, broken, client, PlainRunner(), STOP)
    assert caught.value.code is FailureCode.LATEX_ERROR
    assert (folder / "paper.log").exists()
    assert not (folder / "paper.pdf").exists()


def test_a_paper_that_is_too_long_is_shortened_once(
    sources: PaperSources, drawn: Path, quick_tools: LatexTools, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(drawn, tmp_path / "paper"))
    words = "Some words that fill the page without any number in them.\n\n" * 3
    long = changed(sections=[*TEXT["sections"], {"heading": "More", "body": words}])
    client = Writer(paper__write=[long, TEXT])
    paper = write_paper(replace(sources, page_limit=1), folder, quick_tools, client, PlainRunner(), STOP)
    assert client.count("paper.write") == 2
    assert "pages; at most 1" in client.requests[1].facts["problems"][0]
    assert paper.draft.sections[-1].heading == "Results"


def test_tex_reaches_no_file_and_no_program(latex_tools: LatexTools, tmp_path: Path) -> None:
    """Past the sanitizer: the compiler's own settings hold."""
    build, secret = tmp_path / "build", tmp_path / "secret.tex"
    build.mkdir()
    secret.write_text("SECRET")
    (build / "paper.tex").write_text(
        r"\documentclass{article}\begin{document}x"
        r"\immediate\write18{touch owned}"
        rf"\IfFileExists{{{secret}}}{{\input{{{secret}}}}}{{}}\IfFileExists{{../secret.tex}}{{\input{{../secret}}}}{{}}"
        r"\newwrite\f\immediate\openout\f=inside.txt\end{document}"
    )
    compiled = compile_paper(build, latex_tools, PlainRunner(), STOP, has_references=False)
    assert compiled.is_ok, compiled.error
    assert "SECRET" not in read_pdf(build / "paper.pdf", build, latex_tools, PlainRunner(), STOP).text
    assert not (build / "owned").exists()
    assert (build / "inside.txt").exists()
    (build / "paper.tex").write_text(
        r"\documentclass{article}\begin{document}x\newwrite\f\immediate\openout\f=../outside.txt\end{document}"
    )
    refused = compile_paper(build, latex_tools, PlainRunner(), STOP, has_references=False)
    assert not refused.is_ok
    assert not (tmp_path / "outside.txt").exists()


def test_a_missing_toolchain_is_named_with_its_packages(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"pdflatex.*apt-get install.*texlive-latex-base") as caught:
        check_toolchain(str(tmp_path))
    assert caught.value.code is FailureCode.ENVIRONMENT


def test_the_writer_sees_no_value_outside_the_ledger(sources: PaperSources) -> None:
    facts = writing_facts(sources)
    assert {each["key"] for each in facts["numbers"]} == {each.key for each in build_numbers(sources.results)}
    decisions = {each["key"]: each for each in facts["findings"]}
    assert decisions["stage3.gain"]["is_better_than_baseline_beyond_noise"] is True
    assert decisions["stage2.gain"]["is_better_than_baseline_beyond_noise"] is False


def test_scripted_text_says_so_on_the_first_page(sources: PaperSources) -> None:
    scripted = render(document_parts(sources, make_draft("Text.", is_scripted=True)))
    assert r"\textbf{scripted model}" in scripted
    assert r"\textbf{scripted model}" not in render(document_parts(sources, make_draft("Text.")))


def test_self_reported_results_are_marked(sources: PaperSources) -> None:
    nodes = tuple(replace(node, is_self_reported=True) for node in sources.results.nodes)
    marked = replace(sources, results=replace(sources.results, nodes=nodes))
    source = render(document_parts(marked, make_draft("Text.")))
    assert "Self-reported and confirmed" in source
    assert "are self-reported: the task has no evaluator" in source


def test_identical_ablations_are_marked(sources: PaperSources) -> None:
    nodes = [
        replace(node, scores=(0.9, 0.91, 0.92)) if node.stage == "Stage_4" else node
        for node in sources.results.nodes
    ]
    twin = replace(sources, results=replace(sources.results, nodes=tuple(nodes)))
    table = document_parts(twin, make_draft("Text.")).tables[1]
    assert sum("[identical]" in row[0] for row in table.texts) == 2
    assert "the ablation shows nothing" in table.latex


def test_titles_of_references_cannot_leave_their_field(sources: PaperSources) -> None:
    citation = sources.references.citations[0]
    work = replace(citation.work, title=r"A } @misc{x, \input{y} & 50%", url="https://x.example/{}\\")
    entry = bibtex([replace(citation, work=work)])
    assert r"title = {{A @miscx, inputy \& 50\%}}" in entry
    assert entry.count("{") == entry.count("}")
    assert "\\input" not in entry
    assert "url" not in entry


def test_a_log_excerpt_begins_near_the_error() -> None:
    log = "noise\n" * 1000 + "./paper.tex:12: Undefined control sequence.\nl.12 \\foo\n" + "more\n" * 1000
    assert "Undefined control sequence" in log_excerpt(log)
    assert len(log_excerpt(log)) <= 4_000


def test_figures_are_listed_with_their_files(drawn: Path) -> None:
    figures = read_json(drawn / "figures.json", FigureSet).figures
    assert [figure.label for figure in figures] == ["stages", "curve-train-loss", "ablations"]
    for figure in figures:
        assert (drawn / "figures" / figure.image).read_bytes().startswith(b"%PDF")
        assert (drawn / "figures" / figure.preview).read_bytes().startswith(b"\x89PNG")

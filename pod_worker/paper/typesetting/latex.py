"""Compiles a paper with pdflatex and bibtex, and reads the PDF with poppler.

TeX is a programming language that reads and writes files. Shell escape is off, `openin_any` and `openout_any` are
paranoid (kpathsea), no font is generated, and the folder holds only copies of the paper's own sources.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pod_worker.core.execution import CodeRunner, ExecutionEnd, ExecutionLimits, ExecutionRequest, ExecutionResult
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.output_evidence import is_disk_full
from pod_worker.core.stage import StopSignal

PACKAGES = "texlive-latex-base texlive-latex-recommended texlive-fonts-recommended poppler-utils"
PROGRAMS = ("pdflatex", "bibtex", "kpsewhich", "pdfinfo", "pdftotext")
JOB = "paper"
LIMITS = ExecutionLimits(
    wall_seconds=120, memory_bytes=2 * 2**30, disk_bytes=256 * 2**20, file_bytes=64 * 2**20, processes=16
)
PDF_LIMIT_BYTES = 50 * 2**20
LOG_LIMIT_BYTES = 256 * 1024
_UNDEFINED = re.compile(r"Warning: (?:Citation|Reference) [`']([^']+)'[^.]*undefined")
_ERROR = re.compile(r"^(?:\./)?paper\.tex:(\d+): (.*)$|^! (.*)$", re.MULTILINE)
_END_PAGE = re.compile(r"\\newlabel\{pod-worker-end\}\{\{[^{}]*\}\{(\d+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatexTools:
    programs: Mapping[str, Path]
    folders: tuple[Path, ...]  # what the programs read


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    is_ok: bool
    error: str = ""  # the first one and its line of the source
    is_of_text: bool = False  # the compiler refused the text; False for one that a limit ended
    log: str = ""
    undefined: tuple[str, ...] = ()  # citations and references
    pages: int = 0
    body_pages: int = 0  # without the references


@dataclass(frozen=True, slots=True, kw_only=True)
class PdfReading:
    pages: int
    text: str


def check_toolchain(path: str | None = None) -> LatexTools:
    """The programs that make a paper; to be called before the first paid request.

    `path` replaces PATH. Raises RunError(ENVIRONMENT) that names what is missing and the packages that have it.
    """
    found = {name: shutil.which(name, path=path) for name in PROGRAMS}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise RunError(
            FailureCode.ENVIRONMENT,
            f"a paper needs {', '.join(missing)}, which this machine does not have. "
            f"Fix: apt-get install --no-install-recommends {PACKAGES}",
        )
    programs = {name: Path(place) for name, place in found.items() if place}
    return LatexTools(programs=programs, folders=_tex_folders(programs["kpsewhich"]))


def _tex_folders(kpsewhich: Path) -> tuple[Path, ...]:
    listed: list[str] = []
    for variable in ("$TEXMF", "$TEXMFCNF"):
        done = subprocess.run(
            [kpsewhich, f"--expand-path={variable}"], capture_output=True, text=True, timeout=60, check=False
        )
        listed += done.stdout.strip().split(":")
    fonts = ["/etc/fonts", "/usr/share/fonts", "/usr/share/poppler"]
    folders = [Path(name) for name in dict.fromkeys([*listed, *fonts]) if name.startswith("/")]
    return tuple(folder for folder in folders if folder.is_dir())


def compile_paper(
    build: Path, tools: LatexTools, runner: CodeRunner, stop: StopSignal, has_references: bool = True
) -> Compilation:
    """Compile `paper.tex` in `build` to `paper.pdf` there.

    The exit code of every program counts."""
    first = _run_tex(build, tools, runner, stop)
    if not first.is_ok:
        return _failed(build, first)
    if has_references:
        result = _execute(build, (str(tools.programs["bibtex"]), JOB), tools, runner, stop)
        if not result.is_ok:
            return Compilation(
                is_ok=False,
                error=f"bibtex: {_last_line(result.output)}",
                is_of_text=result.end is ExecutionEnd.EXITED,
                log=result.output,
            )
    for _ in range(2 if has_references else 1):
        last = _run_tex(build, tools, runner, stop)
        if not last.is_ok:
            return _failed(build, last)
    log = read_bounded(build / f"{JOB}.log", LOG_LIMIT_BYTES)
    pages = read_pdf(build / f"{JOB}.pdf", build, tools, runner, stop).pages
    end = _END_PAGE.search(read_bounded(build / f"{JOB}.aux", LOG_LIMIT_BYTES))
    undefined = tuple(dict.fromkeys(_UNDEFINED.findall(log)))
    return Compilation(
        is_ok=True, log=log, undefined=undefined, pages=pages, body_pages=int(end[1]) if end else pages
    )


def _run_tex(build: Path, tools: LatexTools, runner: CodeRunner, stop: StopSignal) -> ExecutionResult:
    options = ("-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error")
    return _execute(build, (str(tools.programs["pdflatex"]), *options, f"{JOB}.tex"), tools, runner, stop)


def _execute(
    folder: Path, argv: tuple[str, ...], tools: LatexTools, runner: CodeRunner, stop: StopSignal
) -> ExecutionResult:
    request = ExecutionRequest(
        folder=folder, argv=argv, limits=LIMITS, environment=_environment(folder), readable=tools.folders
    )
    result = runner.execute(request, stop)
    # Also after exit code 0: pdfTeX takes a transcript that it could not write for a success.
    if is_disk_full(result.output):
        raise RunError(
            FailureCode.DISK_FULL, f"{Path(argv[0]).name} cannot write, because the disk of {folder} is full"
        )
    return result


def _environment(folder: Path) -> dict[str, str]:
    return {
        "shell_escape": "f",
        "openin_any": "p",
        "openout_any": "p",
        "TEXMFOUTPUT": str(folder),
        "TEXMFVAR": str(folder / ".texmf-var"),
        "TEXMFHOME": str(folder / ".texmf"),
        "MKTEXTFM": "0",
        "MKTEXPK": "0",
        "MKTEXMF": "0",
        "MKTEXFMT": "0",
        "max_print_line": "1000",  # no line of the log is broken
        "SOURCE_DATE_EPOCH": "0",  # equal sources give an equal PDF
        "FORCE_SOURCE_DATE": "1",
    }


def _failed(build: Path, result: ExecutionResult) -> Compilation:
    log = read_bounded(build / f"{JOB}.log", LOG_LIMIT_BYTES) or result.output
    match = _ERROR.search(log)
    end = f"pdflatex ended: {result.end.value} {result.exit_code if result.exit_code is not None else ''}".strip()
    if result.end is not ExecutionEnd.EXITED:
        return Compilation(is_ok=False, error=end, log=log)
    error = end if match is None else (f"line {match[1]}: {match[2]}" if match[1] else match[3])
    return Compilation(is_ok=False, error=error, is_of_text=True, log=log)


def log_excerpt(log: str, limit: int = 4_000) -> str:
    """The part of a compiler's log around its first error."""
    match = _ERROR.search(log)
    start = max(0, match.start() - 200) if match else max(0, len(log) - limit)
    return log[start : start + limit]


def source_excerpt(source: str, error: str, lines: int = 12) -> str:
    """The lines of the source around an error of the compiler."""
    match = re.match(r"line (\d+):", error)
    every = source.splitlines()
    at = int(match[1]) if match else 1
    return "\n".join(every[max(0, at - lines) : at + lines])[:6_000]


def read_pdf(pdf: Path, folder: Path, tools: LatexTools, runner: CodeRunner, stop: StopSignal) -> PdfReading:
    """Pages and text of a PDF inside `folder`.

    Raises RunError(LATEX_ERROR) for a file that is no readable PDF.
    """
    name = str(pdf.relative_to(folder))
    about = _execute(folder, (str(tools.programs["pdfinfo"]), name), tools, runner, stop)
    pages = re.search(r"^Pages:\s+(\d+)", about.output, re.MULTILINE)
    text = _execute(folder, (str(tools.programs["pdftotext"]), "-layout", name, "-"), tools, runner, stop)
    if not (about.is_ok and text.is_ok and pages and int(pages[1]) > 0 and text.output.strip()):
        raise RunError(FailureCode.LATEX_ERROR, f"{pdf.name} is no PDF with text: {_last_line(about.output)}")
    return PdfReading(pages=int(pages[1]), text=text.output)


def read_bounded(path: Path, limit: int) -> str:
    """The beginning of a text file that a sandboxed program wrote.

    Empty for a link or no file."""
    data = read_plain_file(path, limit)
    return "" if data is None else data.decode("utf-8", errors="replace")


def read_plain_file(path: Path, limit: int) -> bytes | None:
    """At most `limit` bytes of a regular file that is no link; None otherwise."""

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            return None
        return file.read(limit)


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"

"""What a model writes becomes LaTeX that reaches no file, no program and no syntax of TeX."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pod_worker.paper.typesetting.latex_text import ALLOWED, FORBIDDEN, escape, sanitize


def commands(latex: str) -> set[str]:
    return set(re.findall(r"(?<!\\)(?:\\\\)*\\([A-Za-z@]+)", latex))


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_a_forbidden_command_becomes_text(name: str) -> None:
    safe = sanitize(rf"a \{name}{{x}} b \{name} c")
    assert name not in commands(safe.latex)
    assert safe.problems == (rf"\{name} is forbidden",)


def test_no_command_is_both_allowed_and_forbidden() -> None:
    assert not ALLOWED & FORBIDDEN


@pytest.mark.parametrize(
    "attack",
    [
        r"\input{/etc/passwd}", r"\@@input /etc/passwd", r"^^5cinput{/etc/passwd}", r"^^^^005cinput{x}",
        r"\write18{id}", r"\immediate\write18{id}", r"\catcode`\@=11", r"\csname input\endcsname{x}",
        r"\openin5=/etc/passwd", r"\def\x{\input}", r"\begin{filecontents}{x}\end{filecontents}",
        r"\begin{document}", r"\end{document}", r"\pdffiledump{/etc/passwd}", "% hidden \\input{x}",
        r"\url{\input{x}}", r"\result{\input{x}}", r"\cite{\input{x}}", r"\ref{a}\input{b}", r"\includegraphics{x}",
        "\\\ninput", r"$\input{x}$", r"\begin{equation}\input{x}\end{equation}", r"\label{pod-worker-end}",
    ],
)  # fmt: skip
def test_attacks_become_text(attack: str) -> None:
    latex = sanitize(attack).latex
    assert not commands(latex) & (FORBIDDEN | {"@", "@@input", "label"})
    assert "^^" not in latex
    assert "document" not in re.findall(r"\\(?:begin|end)\{(\w+)\}", latex)


def test_text_of_a_paper_stays() -> None:
    text = (
        r"We \emph{train} \citep{a,b} and see Figure~\ref{fig:x}. \result{stage1.best} "
        r"\begin{itemize}\item a \item b\end{itemize} $x_1^2 \leq \frac{1}{2}$ "
        r"\begin{align}a &= b_1 \\ c &= d\end{align}"
    )
    assert sanitize(text).latex == text
    assert sanitize(text).problems == ()


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("50% of a_b & c#d", r"50\% of a\_b \& c\#d"),
        (r"\(x_1\) and \[y^2\]", r"$x_1$ and \begin{equation*}y^2\end{equation*}"),
        ("$$y^2$$", r"\begin{equation*}y^2\end{equation*}"),
        ("“a” – ½ ² ９", r"``a'' -- 1/2 2 9"),
        ("α ± é", r"\ensuremath{\alpha} \ensuremath{\pm} é"),
        ("a\x00b\u202eb漢", "abb"),
        ("a\\", r"a\textbackslash{}"),
        ("$x", "$x$"),
        ("$x\n\ny$", "$x  y$"),
        ("a } b {", r"a \} b {}"),
        (r"\begin{itemize}\item a", r"\begin{itemize}\item a\end{itemize}"),
        (
            r"\begin{tabular}{c}1\end{tabular}",
            r"\textbackslash{}begin\{tabular\}{c}1\textbackslash{}end\{tabular\}",
        ),
    ],
)
def test_what_would_not_compile_is_corrected(text: str, latex: str) -> None:
    assert sanitize(text).latex == latex


_PIECES = st.sampled_from(
    [*(rf"\{name}" for name in sorted(FORBIDDEN)[:12]), "{", "}", "$", "$$", r"\(", r"\]", r"\begin{itemize}",
     r"\end{itemize}", r"\begin{align}", r"\end{align}", r"\item ", "^^5c", "_", "&", "%", "#", " text ", "\n\n",
     r"\\", "\\", r"\cite{a}", r"\result{k}", "é", "漢", "~", r"\foo", r"\label{eq:a}"]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=25).map("".join))
def test_every_text_becomes_balanced_latex_without_foreign_commands(text: str) -> None:
    latex = sanitize(text).latex
    assert commands(latex) <= ALLOWED
    assert "^^" not in latex
    bare = re.sub(r"\\[\\{}$]", "", latex)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert sorted(re.findall(r"\\begin\{([^}]*)\}", bare)) == sorted(re.findall(r"\\end\{([^}]*)\}", bare))


@given(st.text(max_size=60))
def test_escaped_text_has_no_command_of_its_own(text: str) -> None:
    latex = escape(text)
    assert commands(latex) <= {"textbackslash", "textasciitilde", "textasciicircum", "ensuremath", "ldots"} | {
        name for name in ALLOWED if rf"\ensuremath{{\{name}}}" in latex
    }

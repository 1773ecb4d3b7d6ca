"""Makes text of a model safe for LaTeX: unknown commands become visible text.

A list of forbidden commands is never complete in TeX, so this is a list of allowed ones. The compiler runs in the
sandbox, without shell escape and with `openin_any=p`; this is the layer before it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

TEXT_LIMIT = 60_000
# Commands that a paper has no use for, and that reach files, programs or TeX's own syntax.
_FORBIDDEN_NAMES = """
    input include includeonly includegraphics openin openout read write closein closeout immediate
    special catcode lccode uccode mathcode def edef gdef xdef let futurelet newcommand renewcommand
    providecommand DeclareRobustCommand newenvironment csname endcsname expandafter usepackage
    RequirePackage documentclass jobname directlua loop repeat batchmode scrollmode verbatiminput
    lstinputlisting bibliography bibliographystyle pdfobj pdfximage pdffiledump pdfshellescape
    ShellEscape scantokens makeatletter makeatother InputIfFileExists IfFileExists filecontents primitive
    everypar output afterassignment aftergroup char number the romannumeral
"""
FORBIDDEN = frozenset(_FORBIDDEN_NAMES.split())
_TEXT_COMMANDS = """
    emph textbf textit texttt textsc textrm textsf text underline item cite citep citet citealp
    citeauthor citeyear ref eqref result begin end paragraph noindent quad qquad ldots dots textbackslash
    textasciitilde textasciicircum par footnote mbox url S
"""
_MATH_COMMANDS = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi varpi
    rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi
    Omega frac dfrac tfrac sqrt sum prod int partial nabla infty pm mp times cdot div ast star circ
    bullet oplus otimes leq le geq ge neq ne approx sim simeq equiv propto ll gg in notin subset subseteq
    supset cup cap emptyset forall exists neg land lor to rightarrow leftarrow Rightarrow Leftarrow
    mapsto iff mid parallel perp mathbb mathbf mathrm mathit mathcal mathsf boldsymbol operatorname hat
    bar tilde vec dot overline widehat widetilde underbrace overbrace left right big Big bigg Bigg bigl
    bigr lfloor rfloor lceil rceil langle rangle lVert rVert lvert rvert Vert vert log ln exp min max arg
    argmin argmax sup inf lim det dim ker Pr sin cos tan tanh cdots vdots ddots prime ell Re Im top bot
    dagger ddagger ensuremath label nonumber displaystyle limits binom pmod bmod
"""
ALLOWED = frozenset(_TEXT_COMMANDS.split()) | frozenset(_MATH_COMMANDS.split())
_ENVIRONMENT_NAMES = """
    itemize enumerate description quote equation equation* align align* gather gather* cases matrix
    pmatrix bmatrix
"""
ENVIRONMENTS = frozenset(_ENVIRONMENT_NAMES.split())
_ALIGNING = frozenset({"align", "align*", "cases", "matrix", "pmatrix", "bmatrix"})
_FORMULAS = frozenset({"equation", "equation*", "align", "align*", "gather", "gather*"})
_DISPLAYED = "equation*"
_SYMBOL_COMMANDS = frozenset("%&#_{}$,;:!\\ /-|>'`\"^~.=")
_CHARACTERS = {
    "\u2044": "/",
    "–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "…": r"\ldots{}", "\u00a0": "~",
    "\u2009": r"\,", "\u202f": r"\,", "±": r"\ensuremath{\pm}", "×": r"\ensuremath{\times}",
    "−": r"\ensuremath{-}", "≤": r"\ensuremath{\leq}", "≥": r"\ensuremath{\geq}", "≈": r"\ensuremath{\approx}",
    "→": r"\ensuremath{\to}", "∞": r"\ensuremath{\infty}", "≠": r"\ensuremath{\neq}", "∈": r"\ensuremath{\in}",
    "·": r"\ensuremath{\cdot}", "α": r"\ensuremath{\alpha}", "β": r"\ensuremath{\beta}",
    "γ": r"\ensuremath{\gamma}", "δ": r"\ensuremath{\delta}", "ε": r"\ensuremath{\varepsilon}",
    "η": r"\ensuremath{\eta}", "θ": r"\ensuremath{\theta}", "λ": r"\ensuremath{\lambda}",
    "μ": r"\ensuremath{\mu}", "π": r"\ensuremath{\pi}", "ρ": r"\ensuremath{\rho}", "σ": r"\ensuremath{\sigma}",
    "τ": r"\ensuremath{\tau}", "φ": r"\ensuremath{\varphi}", "ω": r"\ensuremath{\omega}",
    "Δ": r"\ensuremath{\Delta}", "Σ": r"\ensuremath{\Sigma}", "Ω": r"\ensuremath{\Omega}",
}  # fmt: skip
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\ensuremath{<}", ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}", '"': "''",
}  # fmt: skip
_TOKEN = re.compile(
    r"\\(?P<name>[A-Za-z@]+)\*?|\\(?P<symbol>.)|(?P<carets>\^\^+)|(?P<dollars>\$\$?)|(?P<character>.)", re.DOTALL
)
_ENVIRONMENT = re.compile(r"\s*\{([^{}]*)\}")
_KEPT_ARGUMENT = re.compile(r"(?:\[[^\]{}]*\]){0,2}\{[^{}]*\}")
_KEYED_COMMANDS = "cite citep citet citealp citeauthor citeyear ref eqref result label url"
_WITH_KEYS = frozenset(_KEYED_COMMANDS.split())


@dataclass(frozen=True, slots=True)
class SafeText:
    latex: str
    problems: tuple[str, ...]  # what was not LaTeX of a paper, for the next version of the text


def escape(text: str) -> str:
    """Plain text as LaTeX that shows it."""
    return "".join(_ESCAPES.get(character) or _character(character) for character in _normal(text))


def sanitize(text: str) -> SafeText:
    """LaTeX of a model in which nothing but text, known commands and formulas is left."""
    return _Sanitizer(_normal(text)[:TEXT_LIMIT]).run()


def _normal(text: str) -> str:
    """Compatible forms become plain ones, so a superscript digit is a digit."""
    plain = "".join(each if each in _CHARACTERS else unicodedata.normalize("NFKC", each) for each in text)
    return unicodedata.normalize("NFC", plain)


def _character(character: str) -> str:
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if character in "\n\t" or " " <= character <= "~" or "\u00a1" <= character <= "\u017f":
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain if plain.isprintable() else ""


class _Sanitizer:
    def __init__(self, text: str) -> None:
        self._text = text
        self._output: list[str] = []
        self._problems: dict[str, None] = {}
        self._open: list[str] = []  # environments, "{" and "$"
        self._position = 0

    def run(self) -> SafeText:
        while self._position < len(self._text):
            match = _TOKEN.match(self._text, self._position)
            assert match is not None
            self._position = match.end()
            self._take(match)
        if self._open:
            self._problem(f"not closed: {', '.join(self._open)}")
            self._output += [self._closing(each) for each in reversed(self._open)]
        return SafeText("".join(self._output), tuple(self._problems))

    def _take(self, match: re.Match[str]) -> None:
        if name := match["name"]:
            self._command(name, match[0])
        elif symbol := match["symbol"]:
            self._symbol(symbol)
        elif match["carets"]:
            self._problem("^^ is TeX's notation for character codes")
            self._output.append(escape(match["carets"]))
        elif match["dollars"]:
            self._formula("$" if match["dollars"] == "$" else _DISPLAYED, is_end=None)
        else:
            self._plain(match["character"])

    def _command(self, name: str, source: str) -> None:
        if name in ("begin", "end"):
            self._environment(name)
        elif name in FORBIDDEN:
            self._problem(f"\\{name} is forbidden")
            self._output.append(self._shown(source))
        elif name not in ALLOWED:
            self._problem(f"\\{name} is not among the commands of a paper's text")
            self._output.append(self._shown(source))
        elif name in _WITH_KEYS:
            self._with_key(name, source)
        else:
            self._output.append(source)

    def _with_key(self, name: str, source: str) -> None:
        argument = _KEPT_ARGUMENT.match(self._text, self._position)
        is_foreign = name == "label" and argument is not None and not argument[0].startswith("{eq:")
        if argument is None or is_foreign or re.search(r"[\\$%#&~^]", argument[0]):
            self._problem(f"\\{name} needs one plain argument in braces")
            self._output.append(escape(source))
            return
        self._position = argument.end()
        self._output.append(source + argument[0])

    def _environment(self, command: str) -> None:
        match = _ENVIRONMENT.match(self._text, self._position)
        name = match[1] if match else ""
        self._position = match.end() if match else self._position
        is_known = name in ENVIRONMENTS and not (command == "begin" and "$" in self._open)
        if command == "end":
            is_known = is_known and self._open[-1:] == [name]
        if not is_known:
            self._problem(f"\\{command}{{{name}}} is unknown here")
            self._output.append(escape(f"\\{command}{{{name}}}"))
            return
        if command == "begin":
            self._open.append(name)
        else:
            self._open.pop()
        self._output.append(f"\\{command}{{{name}}}")

    def _symbol(self, symbol: str) -> None:
        if symbol in "()":
            self._formula("$", is_end=symbol == ")")
        elif symbol in "[]":
            self._formula(_DISPLAYED, is_end=symbol == "]")
        elif symbol in _SYMBOL_COMMANDS:
            self._output.append(f"\\{symbol}")
        else:
            self._output.append(escape(f"\\{symbol}"))

    def _formula(self, kind: str, is_end: bool | None) -> None:
        """Begin or end a formula of a kind; None: as what is open decides."""
        if self._open[-1:] == [kind] and is_end is not False:
            self._open.pop()
            self._output.append("$" if kind == "$" else rf"\end{{{kind}}}")
        elif self._is_formula() or is_end:
            self._problem("the begin and the end of a formula do not fit")
        else:
            self._open.append(kind)
            self._output.append("$" if kind == "$" else rf"\begin{{{kind}}}")

    def _plain(self, character: str) -> None:
        if character == "{":
            self._open.append("{")
        elif character == "}":
            if self._open[-1:] != ["{"]:
                self._problem("a closing brace without an opening one")
                self._output.append(r"\}")
                return
            self._open.pop()
        elif (character in "_^" and self._is_formula()) or (character == "&" and self._is_aligning()):
            pass
        elif character in "%#&_^\\":  # a backslash alone is the last character of the text
            character = _ESCAPES[character]
        elif character == "\n" and "$" in self._open:
            character = " "  # an empty line ends a formula with an error
        elif character in "<>|" and not self._is_formula():
            character = _ESCAPES[character]
        else:
            character = _character(character)
        self._output.append(character)

    def _is_formula(self) -> bool:
        return "$" in self._open or bool(_FORMULAS & set(self._open))

    def _is_aligning(self) -> bool:
        return bool(_ALIGNING & set(self._open))

    def _shown(self, source: str) -> str:
        """The source of a command as visible text."""
        if not self._is_formula():
            return escape(source)
        return r"\mathrm{" + re.sub(r"[^A-Za-z]", "", source) + "}"

    def _closing(self, opened: str) -> str:
        return {"{": "}", "$": "$"}.get(opened, rf"\end{{{opened}}}")

    def _problem(self, text: str) -> None:
        self._problems[text] = None

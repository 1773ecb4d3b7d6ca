"""The words of the code and the documents: standard terms, one meaning for each public class name.

CONTRIBUTING.md has the rule. Each message names the place and the fix.
"""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pod_worker"
# Assembled, so that this file does not contain what it looks for.
WORDS = tuple(
    "".join(parts)
    for parts in (
        ("no", "body"), ("some", "body"), ("who", "ever"), ("me", "nds?"), ("men", "ded"), ("a", "new"),
        ("ow", "ed"), ("wi", "sh"), ("wi", "shes"), ("wi", "shed"), ("he", "eds?"), ("by", " itself"),
        ("in", " vain"), ("made", " good"), ("hither", "to"), ("there", "by"), ("here", "upon"), ("be", "head"),
        ("in", " the house"), ("driven", " out"), ("be", "falls?"), ("for", "give[sn]?"), ("fruit", "less"),
    )
)  # fmt: skip
# A word in quotes is a value, such as the user name of an unprivileged account.
LITERARY = re.compile(rf"(?<![\w\"-])({'|'.join(WORDS)})(?![\w-])", re.IGNORECASE)
# Classes of the same name on purpose: the fake mirrors the real thing, and API version 2 mirrors version 1.
MIRRORS = (
    ("pod_worker/fake_runpod/", "pod_worker/pods/"),
    ("pod_worker/fake_runpod/api/v1/", "pod_worker/fake_runpod/api/v2/"),
)
# They ask a run to stop and are no errors, as KeyboardInterrupt is none.
CONTROL_FLOW = {"Interruption", "CancelRequested", "DrainRequested", "PodStopped"}
DOCSTRING_LIMIT = 80
DOCUMENTS = {".md", ".py", ".js", ".html", ".sh", ".yaml", ".toml"}
# Decisions and experiments are dated records, and the changelog of a release is one too.
RECORDS = ("docs/decisions/", "docs/experiments.md")


@cache
def sources() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def texts() -> dict[str, str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    wanted = [path for path in listed if Path(path).suffix in DOCUMENTS and not path.startswith(RECORDS)]
    return {path: (ROOT / path).read_text() for path in wanted if (ROOT / path).is_file()}


def test_no_literary_words() -> None:
    wrong = [
        f"{path}:{number}: {match.group(0)!r} in: {line.strip()[:100]}"
        for path, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if (match := LITERARY.search(line))
    ]
    assert not wrong, "use a standard term and name the component that acts:\n" + "\n".join(wrong)


@pytest.mark.parametrize("word", ["no" + "body", "is ow" + "ed", "A" + "new, it", "retried by" + " itself"])
def test_the_word_list_finds_what_it_should(word: str) -> None:
    assert LITERARY.search(f"text {word} text")


def test_public_class_names_are_unique() -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for path, tree in sources().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(path.relative_to(ROOT).as_posix())
    wrong = {name: sorted(found) for name, found in places.items() if len(found) > 1 and not _mirrors(found)}
    assert not wrong, f"two classes of one name are read as one thing; name what differs: {wrong}"


def test_docstrings_begin_with_a_line_of_at_most_80_characters() -> None:
    """What it says is read in lists and pop-ups; further facts are a second paragraph."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.body[0].lineno}: {len(first)} characters: {first}"
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and len(first := (ast.get_docstring(node) or "").partition("\n")[0]) > DOCSTRING_LIMIT
    ]
    assert not wrong, "shorten the first line of:\n" + "\n".join(wrong)


def _mirrors(places: set[str]) -> bool:
    return any(
        len(places) == 2 and sum(place.startswith(a) for place in places) == 1
        and sum(place.startswith(b) for place in places) == 1
        for a, b in MIRRORS
    )  # fmt: skip


def test_error_classes_end_in_error() -> None:
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for tree in sources().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }

    def is_exception(name: str) -> bool:
        known = getattr(builtins, name, None)
        if isinstance(known, type):
            return issubclass(known, BaseException)
        return any(is_exception(base) for base in bases.get(name, ()) if base != name)

    found = {name for name in bases if is_exception(name)}
    assert found, "this test found no exception class"
    wrong = sorted(
        name for name in found - CONTROL_FLOW if not name.endswith("Error") and not name.startswith("_")
    )
    assert not wrong, f"the suffix Error says what `except` is for: {wrong}"

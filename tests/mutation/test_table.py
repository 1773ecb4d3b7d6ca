"""The list of guards fits the code: each is where the list says, once, and its mutant is still a program.

`make mutation` takes them away one by one; that takes minutes, this does not.
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache

import pytest

from tests.mutation.run import ROOT, Guard, check_places, judge, read_guards

GUARDS = read_guards()


@cache
def dump_of(file: str) -> str:
    return ast.dump(ast.parse((ROOT / file).read_text()))


@cache
def functions_of(file: str) -> frozenset[str]:
    nodes = ast.walk(ast.parse((ROOT / file).read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


def test_every_guard_is_where_the_list_says() -> None:
    assert check_places(GUARDS) == []


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name.replace(" ", "-"))
def test_a_mutant_is_a_program_and_another_one(guard: Guard) -> None:
    mutated = guard.mutated((ROOT / guard.file).read_text())
    assert ast.dump(ast.parse(mutated)) != dump_of(guard.file)
    assert guard.why
    assert guard.tests


def test_names_are_given_once() -> None:
    assert [name for name, count in Counter(guard.name for guard in GUARDS).items() if count > 1] == []


def test_every_named_test_exists() -> None:
    for guard in GUARDS:
        for test in guard.tests:
            file, _, name = test.partition("::")
            assert not name or name in functions_of(file), f"{guard.name}: {test}"


@pytest.mark.parametrize(
    ("code", "said", "verdict"),
    [
        (1, "FAILED tests/a.py::test_b - assert\n1 failed", "killed"),
        (1, "FAILED tests/a.py::test_b - Failed: Timeout (>60.0s)\n1 failed", "hung"),
        (None, "", "hung"),
        (0, "3 passed", "survived"),
        (1, "ERROR tests/a.py::test_b - fixture\n1 error", "broken"),
        (2, "Interrupted: 1 error during collection", "broken"),
        (4, "ERROR: not found: tests/a.py::test_b", "broken"),
        (5, "no tests ran", "broken"),
    ],
)
def test_only_a_test_that_failed_has_noticed(code: int | None, said: str, verdict: str) -> None:
    assert judge(code, said)[0] == verdict

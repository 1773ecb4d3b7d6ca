"""Takes away each guard in turn and shows that some test turns red.

The guards are listed in `tests/mutation/*.toml`: what to take out of which file, what to put there, which tests
should notice, and what would happen without it. Nothing is changed in this tree: the mutants live in copies of
it, which are thrown away. Fails when a guard is not where the list says, when no test notices, or when a mutant
does not even run; so neither the list nor the tests can rot.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUARDS = ROOT / "tests" / "mutation"
MARK = "MUTANT_TREE"  # no name of a setting: unknown settings are refused
TEST_SECONDS = 60  # a mutant may hang: so long for one test, and so long for all of a guard's
RUN_SECONDS = 300
PYTEST = [
    "-p",
    "no:cacheprovider",
    "-o",
    "addopts=--import-mode=importlib",
    "--hypothesis-seed=0",
    "--tb=no",
    "-rfE",
]


@dataclass(frozen=True, slots=True)
class Guard:
    part: str
    name: str
    why: str
    file: str
    source: str
    mutant: str
    tests: tuple[str, ...]

    def mutated(self, text: str) -> str:
        """Raises ValueError when the source is not there exactly once."""
        found = text.count(self.source)
        if found != 1:
            raise ValueError(f"{self.name}: found {found} times in {self.file}, expected once: {self.source!r}")
        return text.replace(self.source, self.mutant)


@dataclass(frozen=True, slots=True)
class Result:
    part: str
    name: str
    verdict: str  # killed | hung (killed too) | survived | broken
    seconds: float
    noticed_by: str

    @property
    def is_good(self) -> bool:
        return self.verdict in ("killed", "hung")


def read_guards(folder: Path = GUARDS) -> list[Guard]:
    found = []
    for path in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(path.read_text())["guard"]:
            found.append(Guard(path.stem, **{**entry, "tests": tuple(entry["tests"])}))
    return found


# ── a copy of the tree, and a test run in it ────────────────────────────────────────────────────────────────


def copy_tree(target: Path) -> Path:
    """Everything that git knows or would take up."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    for name in subprocess.run(listing, capture_output=True, check=True).stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def run_tests(
    tree: Path, tests: Sequence[str], *options: str, seconds: float = RUN_SECONDS
) -> tuple[int | None, str]:
    """pytest's exit code (None: it had to be killed) and what it said. Whatever it leaves running is killed."""
    mark = f"{tree.name}-{time.monotonic_ns()}"
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", MARK: mark}
    command = [sys.executable, "-m", "pytest", *PYTEST, *options, f"--timeout={TEST_SECONDS}", *tests]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=tree,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            sweep(f"{MARK}={mark}")
            process.wait()
        output.seek(0)
        return code, output.read().decode(errors="replace")


def sweep(mark: str) -> None:
    """Kill every process that carries the mark in its environment (Linux)."""
    wanted = mark.encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                os.kill(int(path.parent.name), signal.SIGKILL)


def examine(tree: Path, guard: Guard) -> Result:
    """One mutant, from birth to death."""
    began = time.monotonic()
    path = tree / guard.file
    original = path.read_text()
    path.write_text(guard.mutated(original))
    try:
        code, said = run_tests(tree, guard.tests, "-x")
    finally:
        path.write_text(original)
    verdict, noticed_by = judge(code, said)
    return Result(guard.part, guard.name, verdict, round(time.monotonic() - began, 1), noticed_by)


def judge(code: int | None, said: str) -> tuple[str, str]:
    failed = re.findall(r"^FAILED (\S+)", said, re.MULTILINE)
    if code is None or (failed and "Timeout" in said):
        return "hung", failed[0] if failed else "(the whole run)"
    if code == 1 and failed:
        return "killed", failed[0]
    if code == 0:
        return "survived", ""
    return "broken", said.strip().splitlines()[-1] if said.strip() else f"exit code {code}"


# ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────


def check_places(guards: Sequence[Guard]) -> list[str]:
    """Every reason why the list does not fit the code any more."""
    problems = []
    for guard in guards:
        try:
            guard.mutated((ROOT / guard.file).read_text())
        except (OSError, ValueError) as error:
            problems.append(str(error))
        problems += [
            f"{guard.name}: there is no test {test}"
            for test in guard.tests
            if not (ROOT / test.split("::")[0]).exists()
        ]
    return problems


def check_baseline(tree: Path, guards: Sequence[Guard]) -> str | None:
    """The tests must be green while nothing is taken away, or red would mean nothing."""
    tests = sorted({test for guard in guards for test in guard.tests})
    code, said = run_tests(tree, tests, seconds=4 * RUN_SECONDS)
    return None if code == 0 else said[-4000:]


def examine_all(guards: Sequence[Guard], trees: Sequence[Path], tell: Callable[[Result], None]) -> list[Result]:
    """Each tree holds one mutant at a time; results in the order of the list."""
    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for tree in trees:
        free.put(tree)

    def work(guard: Guard) -> Result:
        tree = free.get()
        try:
            result = examine(tree, guard)
        finally:
            free.put(tree)
        tell(result)
        return result

    with ThreadPoolExecutor(len(trees)) as pool:
        return list(pool.map(work, guards))


@contextlib.contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        Path(folder).chmod(0o711)  # sandboxed programs of other users import from the copies
        yield [copy_tree(Path(folder) / f"tree{number}") for number in range(count)]


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="guards whose name has it")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4), help="mutants at a time")
    parser.add_argument("--json", action="store_true", help="the table as JSON on stdout")
    parser.add_argument(
        "--no-baseline", action="store_true", help="trust that the tests are green without a mutant"
    )
    parser.add_argument("--list", action="store_true", help="name the guards and what each is for, run nothing")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    given = arguments(words)
    guards = [each for each in read_guards() if not given.only or any(text in each.name for text in given.only)]
    if given.list:
        for each in guards:
            print(f"{each.part:10} {each.name}: otherwise {each.why}")
        return 0
    if problems := check_places(guards):
        print("\n".join(["the list of guards does not fit the code:", *problems]), file=sys.stderr)
        return 2
    began = time.monotonic()
    with copies(given.jobs) as trees:
        if not given.no_baseline and (wrong := check_baseline(trees[0], guards)):
            print(f"red without any mutant:\n{wrong}", file=sys.stderr)
            return 2
        results = examine_all(guards, trees, lambda each: print(row(each), file=sys.stderr, flush=True))
    if given.json:
        print(json.dumps([asdict(each) for each in results], indent=1))
    left = [each for each in results if not each.is_good]
    print(f"{len(results)} guards, {len(left)} unnoticed, {time.monotonic() - began:.0f} s", file=sys.stderr)
    for unnoticed in left:
        print(row(unnoticed), file=sys.stderr)
    return 1 if left or not results else 0


def row(each: Result) -> str:
    test = each.noticed_by.split("::", 1)[-1]
    return f"{each.verdict:9} {each.seconds:6.1f} s  {each.part:10} {each.name:58} {test}"


if __name__ == "__main__":
    sys.exit(main())

"""The shape of the house, held by looking at the source: who imports whom, what is named where, how large.

Each refusal says why the rule is there, so that a reader can decide whether it still makes sense.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pod_worker"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted([*MODULES, *(ROOT / "chaos").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])

LEVELS = (
    ("core",),
    ("process", "report", "parameters", "pipeline", "control_plane_client", "sealing"),
    (
        "search",
        "tasks",
        "sandbox",
        "paper",
        "literature",
        "command",
        "content",
        "training",
        "snapshots",
        "llm",
        "artifacts",
        "outbox",
        "store",
        "pods",
        "fake_runpod",
        "integrations",
    ),
    ("stages", "pipeline_plugins", "submission"),
    ("pipelines",),
    ("worker", "control", "fleet", "local"),
    ("config",),
    ("stack_settings",),
    ("cli", "__main__", "jobs"),
)
LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}
# What a sibling may take of another one, and why it is no exception to the idea.
ALLOWED = {
    ("__main__", "cli"): "the other name of the command line",
    # fake_runpod/containers/scripted_run.py alone (held by tests/fake_runpod/containers/test_run_script.py): a program that runs inside a fake pod.
    ("fake_runpod", "outbox"): "the program in a fake pod puts emitter and shipper together, as a real pod's does",
    ("fake_runpod", "artifacts"): "and uploads a real artifact",
}
# Layers inside a package, lowest first. A layer imports only layers above it in this list.
SUB_LEVELS: dict[str, tuple[tuple[str, ...], ...]] = {
    "fake_runpod": (
        ("errors", "timestamps"),
        ("billing", "request_log"),
        ("cloud",),
        ("containers",),
        ("runtime",),
        ("api",),
        ("server",),
    ),
    "pods": (
        ("pod", "errors", "json_view"),
        ("catalogue", "worker_reports"),
        ("provider",),
        ("read_results",),
        ("runpod", "launch", "ssh"),
        ("runpod_settings",),
        ("launch_requests", "preconditions"),
        ("worker_client",),
        ("runpod_client",),
    ),
    "control": (
        ("web", "metrics"),
        ("events", "artifacts", "content"),
        ("ingest", "runs", "pages", "ideation", "secrets"),
        ("health",),
        ("app",),
        ("server",),
    ),
    "cli": (
        ("exit_codes", "startup", "output", "log_output", "document_values"),
        ("options", "composition", "connection", "progress"),
        ("completion", "config", "downloads", "uploads", "object_storage"),
        ("pipelines",),
        ("diagnostics", "runs"),
        ("data", "ideas", "queues", "run"),
        ("services", "pods"),
        ("stack",),
    ),
    "cli.pods": (
        ("session", "code_archive", "environment"),
        ("access", "worker_start"),
        ("create",),
        ("commands",),
    ),
    "store": (
        ("collections", "mongo"),
        ("errors", "document_fields"),
        ("queue", "events", "views"),
        ("ideation",),
        ("artifact_keys",),
        (
            "artifact_registry",
            "superseded_artifacts",
            "worker_registry",
            "pod_intents",
            "content_index",
            "run_secrets",
        ),
        ("indexes", "pruning"),
    ),
    "store.ideation": (
        ("hypotheses", "requests"),
        ("adoption", "launches", "status_sync"),
        ("operations", "sweep"),
    ),
    "store.queue": (
        ("fence", "run_document", "contention"),
        ("document_room", "claiming", "run_request", "settlement", "waiting"),
        ("dependencies", "start_deadline"),
        ("run_queue",),
        ("change_stream", "operations", "rescue", "stats"),
        ("run_edits",),
    ),
}
SUB_REASONS = {
    "fake_runpod": "the simulator and the ledgers are pure: a test runs a month of them without a server",
    "pods": "adapters, launcher and SSH are separate, so a new provider touches one folder",
    "control": "storing and reading meet only in events, so one can change without the other",
    "cli": "a command's folder stands on the shared output and options, and can be read without the others",
    "cli.pods": "commands put the parts together; no part depends on a command",
    "store": "the queue knows no events and no views, so a claim never waits for what people look at",
    "store.ideation": "each step of the sweep can be tested, repeated and reasoned about alone",
    "store.queue": "operators and the rescue act through the queue's own documents, never the other way round",
}
# Cycles of imports inside functions that are known and have an owner; each needs its reason.
LINES_LIMIT = 400
# The command line shows a run's document field by field, so it knows the names of the fields.
SHOWING = {"cli"}
# Reads rows that no reader of store/ returns yet (unverified ones by key).
QUERYING = {"cli/data/artifacts.py"}
COLLECTIONS = {
    "runs", "queues", "events", "events_dead", "metrics", "stages", "artifacts", "artifact_keys", "validations", "workers",
    "pods", "pod_intents", "hypotheses", "ideation_requests", "deployments", "budgets", "ledger",
    "provider_secrets", "api_keys", "audit_log", "content", "content_packs", "content_manifests", "data_sets",
}  # fmt: skip
# Fields of the queue's documents; the wire has other words for what it shares.
QUEUE_FIELDS = {
    "leaseToken", "leaseExpiresAt", "claimedBy", "claimedAt", "leasedAttempt", "settledToken", "runAfter",
    "cancelRequestedAt", "cancelRequestedBy", "crashCount", "retryCount", "uniqueKey", "queuedAt",
}  # fmt: skip


Graph = dict[str, set[str]]


@dataclass(frozen=True, slots=True)
class Import:
    file: Path
    line: int
    name: str  # dotted
    is_lazy: bool  # inside a function

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.name}"


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def imports(file: Path) -> tuple[Import, ...]:
    return tuple(_imports(file))


def _imports(file: Path) -> Iterator[Import]:
    functions = [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lazy = {id(inner) for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree(file)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{file.relative_to(ROOT)}:{node.lineno}: relative import; write the whole name"
            )
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            yield Import(file, getattr(node, "lineno", 0), name, id(node) in lazy)


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_point_down_only() -> None:
    wrong = []
    for each in (found for file in MODULES for found in imports(file) if found.name.startswith("pod_worker.")):
        here, there = part_of(each.file), each.name.split(".")[1]
        if here == there or there not in LEVEL_OF or here not in LEVEL_OF or (here, there) in ALLOWED:
            continue
        if LEVEL_OF[there] > LEVEL_OF[here]:
            wrong.append(f"{each}: {here} stands below {there}, so {there} could never be changed without it")
        elif LEVEL_OF[there] == LEVEL_OF[here]:
            wrong.append(f"{each}: {here} and {there} stand side by side; what they share belongs into core, or "
                         "one layer up has to bring them together")  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_layers_inside_a_package_point_down_only() -> None:
    wrong = []
    for package, levels in SUB_LEVELS.items():
        level_of = {layer: level for level, layers in enumerate(levels) for layer in layers}
        prefix = f"pod_worker.{package}."
        for each in (found for file in MODULES for found in imports(file)):
            source = _module(each.file)
            if not (each.name.startswith(prefix) and source.startswith(prefix)):
                continue
            here, there = (name.removeprefix(prefix).split(".")[0] for name in (source, each.name))
            assert {here, there} <= level_of.keys(), f"{each}: add {here} and {there} to SUB_LEVELS[{package!r}]"
            if here != there and level_of[there] >= level_of[here]:
                wrong.append(f"{each}: {here} may not import {there}; {SUB_REASONS[package]}")
    assert not wrong, "\n".join(wrong)


def test_no_modules_and_no_packages_import_each_other_in_a_circle() -> None:
    """Modules are compared by name; packages as the children of the folder that two modules have in common."""
    modules: Graph = {}
    packages: dict[str, Graph] = {}
    for source, target in _module_imports():
        modules.setdefault(source, set()).add(target)
        folder, here, there = _diverge(source, target)
        if here and there:
            packages.setdefault(folder, {}).setdefault(f"{folder}.{here}", set()).add(f"{folder}.{there}")
    graphs = [modules, *packages.values()]
    found = {circle for graph in graphs for circle in _circles(graph)}
    shown = "\n".join(" <-> ".join(sorted(circle)) for circle in found)
    assert not found, f"none of these can be changed, tested or read without the others:\n{shown}"


def _module_imports() -> Iterator[tuple[str, str]]:
    """(importing, imported) module for every import inside the package, also those inside functions."""
    names = {_module(file) for file in MODULES}
    for each in (found for file in MODULES for found in imports(file)):
        target = each.name
        while target and target not in names:
            target = target.rpartition(".")[0]
        source = _module(each.file)
        if target and not f"{source}.".startswith(f"{target}."):
            yield source, target


def _diverge(source: str, target: str) -> tuple[str, str, str]:
    """The common folder of two modules, and the child of it that each belongs to ("" for the folder itself)."""
    left, right = source.split("."), target.split(".")
    shared = next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )
    return ".".join(left[:shared]), "".join(left[shared : shared + 1]), "".join(right[shared : shared + 1])


def _circles(graph: Graph) -> set[frozenset[str]]:
    """The sets of nodes that reach each other."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        queue = list(graph.get(start, ()))
        while queue:
            node = queue.pop()
            if node not in seen:
                seen.add(node)
                queue += graph.get(node, ())
        return seen

    reach = {node: reachable(node) for node in graph}
    return {
        frozenset(other for other in reach if other in reach[node] and node in reach[other])
        for node in reach
        if node in reach[node]
    }


def test_a_circle_of_imports_is_found() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {frozenset({"b", "c"})}
    assert _diverge("p.api.v1", "p.cloud") == ("p", "api", "cloud")
    assert _diverge("p.api.v1", "p.api") == ("p.api", "v1", "")


def test_every_part_has_its_place() -> None:
    parts = {part_of(file) for file in MODULES} - {"__init__"}
    assert parts <= LEVEL_OF.keys(), f"no layer is named for {sorted(parts - LEVEL_OF.keys())}: add it to LEVELS"


def test_core_is_the_standard_library_and_does_no_input_or_output() -> None:
    doing = {
        "os",
        "io",
        "socket",
        "subprocess",
        "threading",
        "asyncio",
        "sqlite3",
        "urllib",
        "http",
        "logging",
        "shutil",
    }
    wrong = [
        str(each)
        for file in MODULES
        if part_of(file) == "core"
        for each in imports(file)
        if (top := each.name.split(".")[0]) != "pod_worker"
        and not each.name.startswith("urllib.parse.")  # text only
        and (top not in sys.stdlib_module_names or top in doing)
    ]
    assert not wrong, "core must be testable without a machine, and imported by everything:\n" + "\n".join(wrong)


def test_settings_are_read_only_where_things_are_put_together() -> None:
    roots = {"cli", "__main__", "config", "stack_settings", "jobs"}
    wrong = [
        str(each)
        for file in MODULES
        if part_of(file) not in roots
        for each in imports(file)
        if each.name.startswith("pod_worker.config") or each.name == "os.environ" or each.name == "os.getenv"
    ]
    assert not wrong, "a module that reads settings cannot be given other ones in a test:\n" + "\n".join(wrong)


@pytest.mark.parametrize("heavy", ["torch", "transformers", "peft", "bitsandbytes", "safetensors"])
def test_heavy_libraries_stay_in_the_runs_own_process(heavy: str) -> None:
    """The supervisor must stay small, and its heartbeat must not wait for an import of seconds."""
    wrong = [
        str(each)
        for file in MODULES
        if part_of(file) not in ("training", "integrations")  # integrations: no module of ours imports them
        for each in imports(file)
        if each.name.split(".")[0] == heavy
    ]
    assert not wrong, f"{heavy} belongs to training/:\n" + "\n".join(wrong)


def test_torch_is_reached_only_from_inside_functions() -> None:
    """A stage's module is imported by the supervisor and by --help; only its function runs in the child."""
    at_top = [each for file in MODULES for each in imports(file) if not each.is_lazy]
    carriers = {"torch"}
    while more := {_module(each.file) for each in at_top if _is_of(each, carriers)} - carriers:
        carriers |= more  # a module that imports a carrier at its top carries torch as well
    assert "pod_worker.training.loop" in carriers, "this test has lost its subject"
    wrong = [str(each) for each in at_top if part_of(each.file) != "training" and _is_of(each, carriers)]
    assert not wrong, "import it inside the function that runs in the child:\n" + "\n".join(wrong)


def _module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _is_of(each: Import, modules: set[str]) -> bool:
    return any(each.name == name or each.name.startswith(f"{name}.") for name in modules)


def test_help_is_quick_because_it_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom pod_worker.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'fastapi', 'pymongo', 'pydantic', 'paramiko'}\n"
        "print(*sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "Usage" in done.stdout
    assert done.stderr.split() == [], f"--help loaded {done.stderr.strip()}: import it where the command runs"


def test_only_the_store_names_collections() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} names the collection {name!r}"
        for file in MODULES
        if part_of(file) != "store" and str(file.relative_to(PACKAGE)) not in QUERYING
        for node in ast.walk(tree(file))
        if (name := _collection(node)) in COLLECTIONS
    ]
    assert not wrong, "a query outside store/ has no index declared beside it:\n" + "\n".join(wrong)


def test_who_shows_documents_never_writes_them() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno} calls {node.func.attr} on {_collection(node.func.value)}"
        for file in MODULES
        if str(file.relative_to(PACKAGE)) in QUERYING
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        and _collection(node.func.value) in COLLECTIONS
        and node.func.attr not in {"find", "find_one", "count_documents"}
    ]  # fmt: skip
    assert not wrong, "a write past store/ is a write past the fence:\n" + "\n".join(wrong)


def _collection(node: ast.AST) -> str | None:
    """`runs` in `database["runs"]`, `db.runs` and `database.get_collection("runs")`."""
    if isinstance(node, ast.Subscript) and _is_database(node.value) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    if isinstance(node, ast.Attribute) and _is_database(node.value):
        return node.attr
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get_collection":
        return str(node.args[0].value) if node.args and isinstance(node.args[0], ast.Constant) else None
    return None


def _is_database(node: ast.AST) -> bool:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return bool(re.search(r"(^|_)(db|database|mongo)$", name))


def test_only_the_store_spells_the_queues_fields() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno} spells {node.value!r}"
        for file in MODULES
        if part_of(file) not in SHOWING | {"store"}
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and node.value.removeprefix("$").split(".")[0] in QUEUE_FIELDS
    ]  # fmt: skip
    assert not wrong, "code that knows a field's name can write it past the fence:\n" + "\n".join(wrong)


def test_no_module_has_a_name_that_says_nothing() -> None:
    nothing = {
        "utils",
        "util",
        "common",
        "helpers",
        "helper",
        "base",
        "misc",
        "manager",
        "managers",
        "tools",
        "types",
    }
    wrong = [str(file.relative_to(ROOT)) for file in SOURCES if {*file.parts, file.stem} & nothing]
    classes = [
        f"{file.relative_to(ROOT)}:{node.lineno} class {node.name}"
        for file in SOURCES
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Manager", "Helper", "Utils"))
    ]
    assert not wrong + classes, "name it after what it is:\n" + "\n".join(wrong + classes)


def test_no_module_has_grown_into_two() -> None:
    sizes = {file: len(file.read_text().splitlines()) for file in SOURCES}
    wrong = [f"{file.relative_to(ROOT)}: {size} lines" for file, size in sizes.items() if size > LINES_LIMIT]
    assert not wrong, f"more than {LINES_LIMIT} lines are two things:\n" + "\n".join(wrong)


def test_every_module_says_what_it_is() -> None:
    wrong = [
        str(file.relative_to(ROOT))
        for file in SOURCES
        if not ast.get_docstring(tree(file)) and file.read_text().strip()
    ]
    assert not wrong, "open it with what it is for and what it refuses to do:\n" + "\n".join(wrong)


def test_no_path_of_one_machine_is_written_down() -> None:
    # Assembled, so that this file does not contain what it looks for.
    places = re.compile("|".join(f"/{name}/" for name in ("work", "home", "Users", "root")) + "|/tmp/[a-z]")
    looked_at = [
        path
        for path in subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        if Path(path).suffix in {".py", ".sh", ".toml", ".yaml", ".yml", ".md"} and (ROOT / path).is_file()
    ]
    wrong = [
        f"{path}:{number}: {line.strip()[:120]}"
        for path in looked_at
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if places.search(line) and "absolute-path: ok" not in line
    ]
    assert not wrong, "it does not exist on the next machine:\n" + "\n".join(wrong)


def test_no_test_replaces_a_function_of_the_time_module() -> None:
    """Threads of drivers and servers sleep too: without sleep they spin for the rest of the test."""
    replaced = re.compile(r'setattr\((?:"time\.|time, ")')
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if replaced.search(line)
    ]
    assert not wrong, "replace the name in the module that sleeps:\n" + "\n".join(wrong)

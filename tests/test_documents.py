"""What the documents name exists: files, links, commands with their options, make targets, settings, routes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from fnmatch import filter as filter_names
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from pymongo.database import Database

from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.cli import cli
from pod_worker.config import INTERNAL, Settings
from pod_worker.control.app import build_app
from pod_worker.core.clock import SystemClock
from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.outcome import Failed
from pod_worker.core.run import Checkpoint, Requirements
from pod_worker.core.worker_offer import WorkerOffer
from pod_worker.store.mongo import connect
from pod_worker.store.queue.operations import OperatorActions
from pod_worker.store.queue.run_document import run_from_document
from pod_worker.store.queue.run_queue import ClaimingWorker, RunQueue, RunRequest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
RECORDS = {"docs/experiments.md"}  # dated results: they name what existed then
CODE = re.compile(r"```.*?\n(.*?)```|`([^`\n]+)`", re.DOTALL)
COMMAND = re.compile(r"pod-worker((?:[ \t]+[^\s|`#;&<>()$]+(?:\|[a-z-]+)*)*)")
FILE = re.compile(
    r"(?<![\w/}.-])[\w.{},*-]+(?:/[\w.{},*-]+)*\.(?:py|md|sh|toml|mjs|html|js|css|txt|lock|yaml)|(?<![\w/}.-])[\w-]+(?:/[\w.*-]+)+/?"
)
SETTING = re.compile(r"\b(?:POD_WORKER|MINIO|RUNPOD|CONTROL_PLANE|MONGODB|OPENAI|ANTHROPIC)_[A-Z0-9_]+\b")
FROM = re.compile("^pod_worker/(fake_runpod/)?")  # where some documents count paths from
PARAMETER = re.compile(r"\{[^}]*\}")
ROUTE = re.compile(r"(GET|POST|HEAD|DELETE|PUT|PATCH) (/[^\s`?]*)")


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def code_of(name: str) -> str:
    """What is typed or named: code blocks and words in backticks, one a line."""
    return "\n".join(block or word for block, word in CODE.findall(text_of(name)))


@cache
def files() -> frozenset[str]:
    """Every file and folder of the repository, from its root and from the package."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    found: set[str] = set()
    for name in listed:
        parts = [name, *(str(folder) for folder in Path(name).parents)]
        found |= {*parts, *(FROM.sub("", part) for part in parts), Path(name).name}
    return frozenset(found - {"."})


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(name: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text_of(name))
    wrong = [to for to in targets if "://" not in to and not ((ROOT / name).parent / to).exists()]
    assert not wrong


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in RECORDS])
def test_named_files_exist(name: str) -> None:
    folders = {known.split("/")[0] for known in files() if "/" in known}
    words = [word.rstrip("/") for word in FILE.findall(code_of(name))]
    named = [word for word in words if word.split("/")[0] in folders or word.endswith(".py")]
    assert [word for word in named if word not in files() and not filter_names(files(), word)] == []


def typed_commands() -> Iterator[tuple[str, list[str]]]:
    """(document, words after `pod-worker`) of every command; `a|b` counts as two commands."""
    for name in DOCUMENTS:
        for match in COMMAND.finditer(code_of(name).replace("\\\n", " ")):
            words = match[1].split()
            choices = [word.split("|") for word in words if re.fullmatch(r"[a-z-]+(\|[a-z-]+)+", word)]
            for choice in choices[0] if choices else [""]:
                yield name, [choice if word.split("|") in choices else word for word in words]


def test_named_commands_and_options_exist() -> None:
    checked, wrong = 0, []
    for name, words in typed_commands():
        checked += 1
        if fault := command_fault(words):
            wrong.append(f"{name}: pod-worker {' '.join(words)}: {fault}")
    assert checked > 30
    assert wrong == []


def command_fault(words: list[str]) -> str | None:
    command: click.Command = cli
    context = click.Context(cli)
    options = set(option_names(cli, context))
    for word in words:
        if word == "--":
            return None  # the rest is a command of the user
        if word.startswith("-") and word != "-":
            if word.partition("=")[0] not in options:
                return f"no option {word}"
        elif isinstance(command, click.Group) and word not in ("…", "..."):
            found = command.get_command(context, word)
            if found is None:
                return f"no command {word}" if re.fullmatch("[a-z-]+", word) else None
            command, context = found, click.Context(found, parent=context)
            options |= set(option_names(found, context))
    return None


def option_names(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        yield from parameter.opts + parameter.secondary_opts
    yield from ("--help", "-h", "--debug")


def test_named_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = {(name, each) for name in DOCUMENTS for each in re.findall(r"\bmake ([a-z][a-z-]*)", code_of(name))}
    assert named
    assert sorted((name, each) for name, each in named if each not in targets) == []


def test_named_settings_exist() -> None:
    known = {name.upper() for name in (*Settings.__struct_fields__, *INTERNAL)}
    sources = text_of("Makefile") + "".join(path.read_text() for path in (ROOT / "scripts").glob("*.sh"))
    package = "".join(path.read_text() for path in (ROOT / "pod_worker").rglob("*.py"))
    named = {(name, each) for name in DOCUMENTS for each in SETTING.findall(text_of(name))}
    wrong = [
        (name, each)
        for name, each in sorted(named)
        if each.removesuffix("_FILE") not in known and each not in sources and f'"{each}"' not in package
    ]
    assert wrong == []


def test_named_routes_exist(mongodb_url: str) -> None:
    store = ObjectStore("http://127.0.0.1:9", "none", "none-none", "none")
    with closing(connect(mongodb_url).client) as client:
        app = build_app(client.get_default_database(), store, token=None, open_on_loopback=True)
        paths = app.openapi()["paths"]
    known = {(method.upper(), PARAMETER.sub("{}", path)) for path, methods in paths.items() for method in methods}
    named = {(method, PARAMETER.sub("{}", path)) for method, path in ROUTE.findall(code_of("docs/contract.md"))}
    assert len(named) > 10
    assert named - known == {("GET", "/openapi.json")}
    described = {
        (method, PARAMETER.sub("{}", path)) for method, path in ROUTE.findall(code_of("docs/ideation.md"))
    }
    assert {route for route in known - named - described if "/api/" in route[1]} == set(), (
        "not in docs/contract.md"
    )


def test_every_field_of_a_run_is_in_the_contract(db: Database[dict[str, Any]]) -> None:
    """What the queue writes during a run's life, and what its codec reads."""
    queue, written = RunQueue(db, SystemClock()), set[str]()

    def note() -> None:
        for document in db.runs.find():
            written.update(document, document["requirements"], *document["checkpoints"].values())

    needs = Requirements("H100", 1, "EU", 99, 1, 1, 1, 1)
    offer = WorkerOffer(("H100",), 1, 80, 80, region="EU")
    request = RunRequest(
        "r", "synthetic", {}, unique_key="k", hypothesis_id="h", requirements=needs, name="n", after=("first",),
        max_queue_seconds=1, max_duration_seconds=1, retry_on=("exit:3",), sealed_secrets={"A": "b"},
    )  # fmt: skip
    queue.enqueue_many([RunRequest("first", "synthetic", {}), request])
    note()
    OperatorActions(db).cancel("first", by="ana", reason="why")
    OperatorActions(db).reset("r", from_scratch=True)
    note()
    worker = ClaimingWorker("w", "pod", ("synthetic",), ("synthetic",), offer=offer)
    claim = queue.claim(worker, "r")
    assert claim is not None
    queue.checkpoint(claim.lease.fence, Checkpoint("one", True))
    OperatorActions(db).reset("r", force=True)
    note()
    db.runs.update_one({"_id": "r"}, {"$unset": {"heldUntil": 1}})
    claim = queue.claim(worker, "r")
    assert claim is not None
    note()
    queue.settle(claim.lease.fence, Failed(Failure(FailureCode.USER_ERROR, "broke", "one", "trace", exit_code=3)))
    note()
    read = set[str]()

    class Document(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            read.add(name)
            return super().get(name, default)

    run_from_document(Document(db.runs.find_one({"_id": "r"}) or {}))
    assert {"blockedBy", "leaseToken", "exitCode", "heldUntil", "settledAs"} <= written
    assert {"retryOn", "cancelRequestedAt"} <= read
    known = set(re.findall(r"[A-Za-z_]+", code_of("docs/contract.md")))
    assert (written | read) - known == set()

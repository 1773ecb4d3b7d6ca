"""One turn of an agent: the action that a model chose, and what it was answered.

Turns are on the disk before the next question is asked, so a killed search repeats neither a paid turn nor an
execution.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Self

import msgspec

from pod_worker.core.run import Json

PATH_LIMIT = 80
CONTENT_BYTES = 48_000  # of one file, as of a program that a single call writes
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
_TEXT: dict[str, Json] = {"type": "string"}


class ActionKind(StrEnum):
    WRITE = "write"
    RUN = "run"
    READ = "read"
    FINISH = "finish"


ACTION_SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {
        "thought": _TEXT,
        "action": {"enum": [kind.value for kind in ActionKind]},
        "path": _TEXT,
        "content": _TEXT,
        "offset": {"type": "integer"},
        "plan": _TEXT,
        "change": _TEXT,
    },
    "required": ["thought", "action", "path", "content", "offset", "plan", "change"],
    "additionalProperties": False,
}


class AgentAction(msgspec.Struct, frozen=True, kw_only=True):
    """What the model chose; fields that the action does not need are empty."""

    action: ActionKind
    thought: str = ""
    path: str = ""
    content: str = ""
    offset: int = 0
    plan: str = ""
    change: str = ""


class AgentTurn(msgspec.Struct, frozen=True, kw_only=True):
    action: AgentAction
    observation: str
    is_ok: bool = True  # of a run: it ended well
    output: str = ""  # of a run, bounded
    is_scripted: bool = False


def path_problem(path: str) -> str:
    """Why a text names no file of the workspace; empty where it does."""
    if not _NAME.fullmatch(path) or len(path) > PATH_LIMIT:
        return f"{path[:PATH_LIMIT]!r} is no plain file name: letters, digits, '_', '-' and '.', without folders"
    return ""


def files_of(turns: Sequence[AgentTurn]) -> dict[str, str]:
    """The files that the agent wrote, as it wrote them: programs cannot change them."""
    return {
        turn.action.path: turn.action.content
        for turn in turns
        if turn.action.action is ActionKind.WRITE and turn.is_ok
    }


class Transcript:
    """A session in a file: a line for its question, then one for each turn."""

    def __init__(self, path: Path, turns: list[AgentTurn]) -> None:
        self._path = path
        self.turns = turns

    @classmethod
    def open(cls, path: Path, question: Mapping[str, Json]) -> Self:
        """Continue the session of the same question, or begin one.

        A line that a crash cut is removed.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(json.dumps(question, sort_keys=True).encode("utf-8", "replace")).hexdigest()
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        turns = _decoded(lines[1:]) if lines and lines[0] == key.encode() else []
        rows = [key.encode(), *(msgspec.json.encode(turn) for turn in turns)]
        _replace(path, b"".join(row + b"\n" for row in rows))
        return cls(path, turns)

    def append(self, turn: AgentTurn) -> None:
        """Raises OSError; a line that it cut is removed by the next `open`."""
        with open(self._path, "ab") as file:
            file.write(msgspec.json.encode(turn) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.turns.append(turn)


def _decoded(lines: Sequence[bytes]) -> list[AgentTurn]:
    """Turns up to the first damaged line."""
    found: list[AgentTurn] = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=AgentTurn))
        except msgspec.MsgspecError:
            break
    return found


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)

"""Answers on disk by the content of their request.

A resumed run finds them and never pays twice.

One file per answer, written atomically and synced before the answer is used. A damaged file is ignored with a
warning; the request is then paid again and the file replaced.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path

import msgspec

from pod_worker.core.research.completion import ChatMessage
from pod_worker.core.run import Json
from pod_worker.llm.wire import WireAnswer, WireRequest

log = logging.getLogger(__name__)
_SUFFIX = ".json"


class _Entry(msgspec.Struct, frozen=True):
    key: str
    operation: str
    answer: WireAnswer
    sha256: str  # of the encoded answer: an entry that was cut or changed is not used


def request_key(request: WireRequest, takes_facts: bool = False) -> str:
    """SHA-256 of what the answer depends on."""
    content: dict[str, Json] = {
        "operation": request.operation,
        "model": request.model,
        "messages": [_message(each) for each in request.messages],
        "schema": None if request.schema is None else dict(request.schema),
        "temperature": request.temperature,
        "sample": request.sample,
    }
    if takes_facts:
        content["facts"] = dict(request.facts)
    encoded = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(encoded.encode()).hexdigest()


def _message(message: ChatMessage) -> Json:
    images = [f"{each.media_type}:{hashlib.sha256(each.data).hexdigest()}" for each in message.images]
    return [message.role, message.text, images]


class ResponseCache:
    """Safe for several threads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder

    def find(self, key: str) -> WireAnswer | None:
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            entry = msgspec.json.decode(content, type=_Entry)
        except msgspec.MsgspecError:
            entry = None
        if entry is None or entry.key != key or entry.sha256 != _digest(entry.answer):
            log.warning("the cached answer %s is damaged; the request is sent again", path.name)
            return None
        return entry.answer

    def put(self, key: str, operation: str, answer: WireAnswer) -> None:
        """The answer is on disk when this returns."""
        path = self._path(key)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        entry = _Entry(key, operation, answer, _digest(answer))
        with open(fresh, "wb") as file:
            file.write(msgspec.json.encode(entry))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        _sync_folder(self._folder)

    def discard(self, keys: list[str]) -> None:
        """Forget answers that could not be used: the next attempt must ask for new ones."""
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"


def _digest(answer: WireAnswer) -> str:
    return hashlib.sha256(msgspec.json.encode(answer)).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

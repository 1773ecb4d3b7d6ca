"""A run as it happens: server-sent events, read from the event log by short polls.

The log is the source, so a view that reconnects with Last-Event-ID misses nothing, on whichever process it
lands. An event may come again after a reconnect (its `_id` tells). Ends when the client goes or the server stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from pymongo.errors import PyMongoError
from starlette.concurrency import run_in_threadpool

from pod_worker.control.web.problem import ProblemError
from pod_worker.control.web.responses import encode_json
from pod_worker.core.run import Json
from pod_worker.store.events.reader import EventReader
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.views.read_models import ReadModels

POLL_SECONDS = 0.7
KEEP_ALIVE_SECONDS = 15.0
BATCH = 500
VIEWERS = 200
# Batches are given positions before they are stored, so a later position may be visible first.
OVERLAP_MICROSECONDS = 3_000_000
RETRY_MILLISECONDS = 2000


def router(database: Mongo, authorize: Callable[..., object], *, poll_seconds: float = POLL_SECONDS) -> APIRouter:
    made = APIRouter(tags=["runs"], dependencies=[Depends(authorize)])
    viewers: set[object] = set()
    models, pages = ReadModels(database), EventReader(database)

    @made.get("/api/runs/{run_id}/live")
    async def live(
        run_id: str,
        request: Request,
        after: Annotated[int | None, Query(ge=0)] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """`event: state` {run, stages} whenever it changes; `event: event` with the position as its id."""
        if len(viewers) >= VIEWERS:
            raise ProblemError(
                503, "too_many_viewers", "too many live views: try again", headers={"Retry-After": "10"}
            )
        if await run_in_threadpool(models.run, run_id) is None:
            raise ProblemError(404, "run_not_found", f"there is no run {run_id[:200]!r}")
        resumed = int(last_event_id) if last_event_id and last_event_id.isdigit() else after
        view = _LiveView(run_id, models, pages, resumed)

        async def stream() -> AsyncIterator[bytes]:
            viewers.add(view)
            try:
                async for part in _follow(view, request.app.state.stopping, poll_seconds):
                    yield part
            finally:
                viewers.discard(view)

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream(), headers=headers, media_type="text/event-stream")

    return made


async def _follow(view: _LiveView, stopping: asyncio.Event, poll_seconds: float) -> AsyncIterator[bytes]:
    yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
    silent_seconds = 0.0
    while not stopping.is_set():
        try:
            news = await run_in_threadpool(view.poll)
        except PyMongoError:
            news = [b": the database is away\n\n"]  # the view goes on when it is back
        silent_seconds = 0.0 if news else silent_seconds + poll_seconds
        if silent_seconds >= KEEP_ALIVE_SECONDS:
            news, silent_seconds = [b": still here\n\n"], 0.0
        if news:
            yield b"".join(news)
        try:
            await asyncio.wait_for(stopping.wait(), 0.01 if view.is_behind else poll_seconds)
        except TimeoutError:
            continue
    yield b"event: bye\ndata: {}\n\n"


class _LiveView:
    """What one viewer has seen."""

    def __init__(self, run_id: str, models: ReadModels, pages: EventReader, position: int | None) -> None:
        self._run_id = run_id
        self._models = models
        self._pages = pages
        self._position = position
        self._seen: dict[str, int] = {}
        self._state = b""
        self.is_behind = False

    def poll(self) -> list[bytes]:
        """News as ready-made messages; blocks on the database."""
        return self._changed_state() + self._new_events()

    def _changed_state(self) -> list[bytes]:
        run = self._models.run(self._run_id)
        state = encode_json({"run": run, "stages": self._models.stages(self._run_id)}) if run else b"{}"
        digest = sha256(state).digest()
        if digest == self._state:
            return []
        self._state = digest
        return [b"event: state\ndata: " + state + b"\n\n"]

    def _new_events(self) -> list[bytes]:
        if self._position is None:
            self._position = self._pages.last_position(self._run_id)
            self._seen = self._pages.ids_between(self._run_id, *self._window())
        late = self._late_events()
        fresh = self._pages.read_after(self._run_id, self._position, BATCH)
        self.is_behind = len(fresh) == BATCH
        self._seen |= {event["_id"]: event["position"] for event in late + fresh}
        self._position = max([self._position, *(event["position"] for event in fresh)])
        self._seen = {name: at for name, at in self._seen.items() if at > self._window()[0]}
        return [_message(event) for event in late + fresh]

    def _late_events(self) -> list[Document]:
        """Those that became visible after others with a later position. Usually none: one count tells."""
        window = self._window()
        if self._pages.count_between(self._run_id, *window) == len(self._seen):
            return []
        found = self._pages.ids_between(self._run_id, *window)
        return self._pages.by_ids([name for name in found if name not in self._seen])

    def _window(self) -> tuple[int, int]:
        assert self._position is not None
        return self._position - OVERLAP_MICROSECONDS, self._position


def _message(event: dict[str, Json]) -> bytes:
    return b"id: %d\nevent: event\ndata: %b\n\n" % (event["position"], encode_json(event))

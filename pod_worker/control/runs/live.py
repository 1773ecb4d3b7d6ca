"""Live views of a run: server-sent events, read by one poller per run.

The log is the source, so a view that reconnects with Last-Event-ID misses nothing, on any process. An event may
come again after a reconnect (its `_id` tells). A view ends when its client leaves or falls far behind, and when
the server stops.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from pymongo.errors import PyMongoError
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from pod_worker.control.web.problem import ProblemError
from pod_worker.control.web.responses import encode_json
from pod_worker.core.run import Json
from pod_worker.store.events.reader import EventReader
from pod_worker.store.mongo import Document, Mongo
from pod_worker.store.views.read_models import ReadModels

POLL_SECONDS = 0.7
ALIVE_SECONDS = 5.0  # between two messages, so that a page can tell a silent server from a quiet run
BATCH = 500
VIEWERS = 200
QUEUED_BATCHES = 20  # of one viewer that reads slowly; then its view ends and its client reconnects
# Batches are given positions before they are stored, so a later position may be visible first.
OVERLAP_MICROSECONDS = 3_000_000
RETRY_MILLISECONDS = 2000
POSITION_LIMIT = 2**63 - 1
_RETRY = f"retry: {RETRY_MILLISECONDS}\n\n".encode()
_BYE = b"event: bye\ndata: {}\n\n"

log = logging.getLogger(__name__)
Position = Annotated[int | None, Query(ge=0, le=POSITION_LIMIT)]


@dataclass(frozen=True, slots=True)
class EventMessage:
    id: str
    position: int
    message: bytes


@dataclass(frozen=True, slots=True)
class News:
    """What one poll found: the run's state if it changed, and events."""

    state: bytes = b""
    events: tuple[EventMessage, ...] = ()


def router(database: Mongo, *, poll_seconds: float = POLL_SECONDS) -> APIRouter:
    api = APIRouter(tags=["runs"])
    views = LiveViews(database, poll_seconds)

    @api.get("/api/runs/{run_id}/live")
    async def live(
        run_id: str,
        request: Request,
        after: Position = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """Server-sent events: `state` {run, stages}, `event` and `alive` {age}.

        `state` comes whenever it changes; an `event` has its position as the id.

        `age` is the number of seconds since the database last answered.
        """
        release = views.reserve()
        try:
            await views.check_run(run_id)
        except BaseException:
            release()
            raise
        position = _position(last_event_id)
        stream = views.stream(run_id, after if position is None else position, request.app.state.stopping)
        return _LiveResponse(stream, release)

    return api


class LiveViews:
    """All live views of this process. For one event loop."""

    def __init__(self, database: Mongo, poll_seconds: float) -> None:
        self._models, self._reader = ReadModels(database), EventReader(database)
        self._poll_seconds = poll_seconds
        self._feeds: dict[str, _Feed] = {}
        self._viewers = 0

    def reserve(self) -> Callable[[], None]:
        """Take one of the places; returns what gives it back. Raises ProblemError 503."""
        if self._viewers >= VIEWERS:
            wait = {"Retry-After": "10"}
            raise ProblemError(503, "too_many_viewers", "too many live views: try again later", headers=wait)
        self._viewers += 1
        is_released = False

        def release() -> None:
            nonlocal is_released
            if not is_released:
                is_released = True
                self._viewers -= 1

        return release

    async def check_run(self, run_id: str) -> None:
        if await run_in_threadpool(self._models.status, run_id) is None:
            raise ProblemError(404, "run_not_found", f"there is no run {run_id[:200]!r}")

    async def stream(
        self, run_id: str, position: int | None, stopping: asyncio.Event
    ) -> AsyncGenerator[bytes, None]:
        """The messages of one view from a position in the log on (None: from now on)."""
        yield _RETRY
        viewer = _Viewer()
        feed = self._join(run_id, viewer)
        try:
            await _first_of(feed.started, stopping)
            if feed.state:
                yield _state_message(feed.state)
            seen: set[str] = set()
            if position is not None and feed.started.is_set():
                repeated_after = feed.position - OVERLAP_MICROSECONDS
                async for batch in self._past(run_id, position):
                    seen.update(each.id for each in batch if each.position > repeated_after)
                    yield b"".join(each.message for each in batch)
            async for part in _follow(feed, viewer, seen, stopping):
                yield part
        except PyMongoError:
            return  # the client reconnects and goes on where it was
        finally:
            self._leave(run_id, feed, viewer)

    def _join(self, run_id: str, viewer: _Viewer) -> _Feed:
        feed = self._feeds.get(run_id)
        if feed is None:
            follower = RunFollower(run_id, self._models, self._reader)
            feed = self._feeds[run_id] = _Feed(follower, self._poll_seconds)
        feed.viewers.append(viewer)
        return feed

    def _leave(self, run_id: str, feed: _Feed, viewer: _Viewer) -> None:
        feed.viewers.remove(viewer)
        if not feed.viewers:
            feed.task.cancel()
            self._feeds.pop(run_id, None)

    async def _past(self, run_id: str, position: int) -> AsyncIterator[list[EventMessage]]:
        """Events after a position, and late ones shortly before it.

        A late event became visible since, with an earlier position.
        """
        after = position - OVERLAP_MICROSECONDS
        while True:
            page = await run_in_threadpool(self._reader.read_after, run_id, after, BATCH)
            if page.items:
                yield [_event_message(each) for each in page.items]
            if page.next_cursor is None:
                return
            after = page.next_cursor


@dataclass(eq=False, slots=True)
class _Viewer:
    news: asyncio.Queue[News] = field(default_factory=lambda: asyncio.Queue(QUEUED_BATCHES))
    is_overrun: bool = False

    def put(self, news: News) -> None:
        try:
            self.news.put_nowait(news)
        except asyncio.QueueFull:
            self.is_overrun = True


class _Feed:
    """Polls one run for all of its viewers."""

    def __init__(self, follower: RunFollower, poll_seconds: float) -> None:
        self._read_at = time.monotonic()
        self.viewers: list[_Viewer] = []
        self.state = b""
        self.started = asyncio.Event()
        self._follower = follower
        self._poll_seconds = poll_seconds
        self.task = asyncio.create_task(self._poll_forever())

    @property
    def position(self) -> int:
        """Events after it are still to come. Valid once `started` is set."""
        return self._follower.position or 0

    @property
    def age_seconds(self) -> float:
        """Since the database last answered."""
        return time.monotonic() - self._read_at

    async def _poll_forever(self) -> None:
        while True:
            try:
                self._publish(await run_in_threadpool(self._follower.poll))
            except PyMongoError:
                pass  # the views go on when the database is back
            except Exception:
                log.exception("a live view could not be read")
            await asyncio.sleep(0.01 if self._follower.is_behind else self._poll_seconds)

    def _publish(self, news: News) -> None:
        self._read_at = time.monotonic()
        self.state = news.state or self.state
        if not self.started.is_set():
            news = News(b"", news.events)  # each viewer begins with the state
            self.started.set()
        if news.state or news.events:
            for viewer in self.viewers:
                viewer.put(news)


async def _first_of(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(each.wait()) for each in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _follow(feed: _Feed, viewer: _Viewer, seen: set[str], stopping: asyncio.Event) -> AsyncIterator[bytes]:
    stop = asyncio.create_task(stopping.wait())
    try:
        while not stop.done() and not viewer.is_overrun:
            get = asyncio.create_task(viewer.news.get())
            await asyncio.wait({get, stop}, timeout=ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not get.done():
                get.cancel()
                if not stop.done():
                    yield b'event: alive\ndata: {"age": %.1f}\n\n' % feed.age_seconds
                continue
            news = get.result()
            parts = [_state_message(news.state)] if news.state else []
            parts += [each.message for each in news.events if each.id not in seen]
            if parts:
                yield b"".join(parts)
        yield _BYE
    finally:
        stop.cancel()


class RunFollower:
    """Finds what is new of one run, poll after poll.

    Starts at the end of the run's log.
    """

    def __init__(self, run_id: str, models: ReadModels, reader: EventReader) -> None:
        self._run_id = run_id
        self._models = models
        self._reader = reader
        self.position: int | None = None
        self._seen: dict[str, int] = {}
        self._digest = b""
        self.is_behind = False

    def poll(self) -> News:
        """What changed since the last poll; blocks on the database."""
        return News(self._changed_state(), tuple(self._new_events()))

    def _changed_state(self) -> bytes:
        run = self._models.run(self._run_id)
        state = encode_json({"run": run, "stages": self._models.stages(self._run_id)}) if run else b"{}"
        digest = sha256(state).digest()
        if digest == self._digest:
            return b""
        self._digest = digest
        return state

    def _new_events(self) -> list[EventMessage]:
        if self.position is None:
            self.position = self._reader.last_position(self._run_id)
            self._seen = self._reader.ids_between(self._run_id, *self._window())
        late = self._late_events()
        page = self._reader.read_after(self._run_id, self.position, BATCH)
        fresh, self.is_behind = page.items, page.next_cursor is not None
        self._seen |= {event["_id"]: event["position"] for event in late + fresh}
        self.position = max([self.position, *(event["position"] for event in fresh)])
        self._seen = {name: at for name, at in self._seen.items() if at > self._window()[0]}
        return [_event_message(event) for event in late + fresh]

    def _late_events(self) -> list[Document]:
        """Events that became visible after others with a later position.

        There are usually none, and one count is enough to know it.
        """
        window = self._window()
        if self._reader.count_between(self._run_id, *window) == len(self._seen):
            return []
        found = self._reader.ids_between(self._run_id, *window)
        return self._reader.by_ids([name for name in found if name not in self._seen])

    def _window(self) -> tuple[int, int]:
        assert self.position is not None
        return self.position - OVERLAP_MICROSECONDS, self.position


class _LiveResponse(StreamingResponse):
    """Gives its place back however it ends, also when it never begins."""

    def __init__(self, stream: AsyncGenerator[bytes, None], release: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(stream, headers=headers, media_type="text/event-stream")
        self._stream = stream
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()
            await self._stream.aclose()


def _position(last_event_id: str | None) -> int | None:
    """The position in a Last-Event-ID header; None without a valid one."""
    text = last_event_id or ""
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        return None
    return min(int(text), POSITION_LIMIT)


def _state_message(state: bytes) -> bytes:
    return b"event: state\ndata: " + state + b"\n\n"


def _event_message(event: dict[str, Json]) -> EventMessage:
    message = b"id: %d\nevent: event\ndata: %b\n\n" % (event["position"], encode_json(event))
    return EventMessage(str(event["_id"]), event["position"], message)

"""The fake as a web application, and the functions that serve it.

`build_app` combines the API surfaces behind the gateway; `serve` is called by `pod-worker fake-runpod`;
`running` serves in a thread, for tests. This module reads no environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from socket import create_server, socket

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response

from pod_worker.fake_runpod.api.admin import admin_routes
from pod_worker.fake_runpod.api.browser_guard import is_loopback
from pod_worker.fake_runpod.api.gateway import ApiGateway
from pod_worker.fake_runpod.api.graphql.endpoint import graphql_routes
from pod_worker.fake_runpod.api.rate_limit import Quotas, RateLimiter
from pod_worker.fake_runpod.api.responses import api_error_response, error_response, json_response
from pod_worker.fake_runpod.api.telemetry import telemetry_routes
from pod_worker.fake_runpod.api.v1.pods import v1_routes
from pod_worker.fake_runpod.api.v2.router import v2_routes
from pod_worker.fake_runpod.cloud import snapshot
from pod_worker.fake_runpod.cloud.account import Account, random_api_key
from pod_worker.fake_runpod.cloud.catalogue import Catalogue, load_catalogue
from pod_worker.fake_runpod.cloud.clock import VirtualClock
from pod_worker.fake_runpod.cloud.faults import read_rules
from pod_worker.fake_runpod.cloud.settings import SimulationSettings
from pod_worker.fake_runpod.cloud.simulator import CloudSimulator
from pod_worker.fake_runpod.containers.runner import ContainerRunner, NoRunner
from pod_worker.fake_runpod.errors import ApiError
from pod_worker.fake_runpod.runtime import SimulatorRuntime

DEFAULT_PORT = 9000
FORMER_DEFAULT_KEY = "rpa_fake"
"""Public, so a state file that holds it gets a random key."""
RunnerFactory = Callable[[SimulatorRuntime], ContainerRunner]
DETAILS = {404: "The requested path was not found.", 405: "The requested method is not allowed for this path."}


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one fake.

    `speed`: virtual seconds per real second, 0: only explicit steps. `state`: state file. `faults`: YAML file of
    rules. `make_runner` creates the container runner; None: pods run nothing.
    """

    account: Account = field(default_factory=Account)
    speed: float = 1.0
    state: Path | None = None
    faults: Path | None = None
    catalogue: Path | None = None
    settings: SimulationSettings = field(default_factory=SimulationSettings)
    quotas: Quotas = field(default_factory=Quotas)
    seed: int | None = None
    make_runner: RunnerFactory | None = None


def build_runtime(options: Options) -> SimulatorRuntime:
    """The simulator, its clock and its container runner.

    Raises ValueError for an invalid state file, msgspec.ValidationError for an invalid fault or catalogue file.
    """
    catalogue = load_catalogue(options.catalogue)
    saved = snapshot.read(options.state) if options.state else None
    now_ns = saved.now_ns if saved else time.time_ns()
    clock = VirtualClock(now_ns, options.speed)
    simulator = _build_simulator(options, catalogue, saved, now_ns)
    runtime = SimulatorRuntime(simulator, clock, state=options.state)
    if options.make_runner is not None:
        runtime.runner = options.make_runner(runtime)
    for rule in read_rules(options.faults) if options.faults else ():
        simulator.faults.add(rule, now_ns)
    return runtime


def _build_simulator(
    options: Options, catalogue: Catalogue, saved: snapshot.Snapshot | None, now_ns: int
) -> CloudSimulator:
    account = options.account if saved is None else saved.account
    account.api_keys = options.account.api_keys or _saved_keys(account) or [random_api_key()]
    # With a seed ids repeat between runs. Without one they must differ from the ids in a state file.
    seed = time.time_ns() if options.seed is None else options.seed
    simulator = CloudSimulator(account, catalogue, now_ns, settings=options.settings, seed=seed)
    if saved is not None:
        snapshot.restore(simulator, saved)
    return simulator


def _saved_keys(account: Account) -> list[str]:
    return [key for key in account.api_keys if key != FORMER_DEFAULT_KEY]


def build_app(runtime: SimulatorRuntime, quotas: Quotas | None = None) -> FastAPI:
    """All API surfaces: REST v2 and v1, GraphQL, telemetry, the test API."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ticking = asyncio.create_task(runtime.run())
        yield
        ticking.cancel()
        runtime.close()

    app = FastAPI(title="Fake RunPod", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(ApiGateway, runtime=runtime, limiter=RateLimiter(quotas or Quotas(), time.monotonic))
    for routes in (v2_routes, graphql_routes, admin_routes, telemetry_routes):
        app.include_router(routes(runtime))
    app.include_router(v1_routes(runtime), prefix="/v1")
    app.include_router(v1_routes(runtime))

    @app.get("/")
    async def root() -> Response:
        return json_response(
            {"server": "fake-runpod", "surfaces": ["/v2", "/v1", "/graphql", "/telemetry", "/_fake"]}
        )

    @app.exception_handler(ApiError)
    async def rejection(request: Request, error: ApiError) -> Response:
        return api_error_response(request.scope["fake.surface"], error)

    @app.exception_handler(StarletteHTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        detail = DETAILS.get(error.status_code, str(error.detail))
        answer = error_response(request.scope["fake.surface"], error.status_code, detail)
        answer.headers.update(error.headers or {})
        return answer

    return app


def bind(runtime: SimulatorRuntime, address: str, port: int) -> socket:
    """A listening socket (port 0: any free one); sets the runtime's base URL.

    Raises OSError, and ValueError for an address beyond loopback while pods run commands.
    """
    if not (is_loopback(address) or isinstance(runtime.runner, NoRunner)):
        raise ValueError(
            f"--host {address} is not a loopback address, and pods run commands as this user, so other machines "
            "could run commands here. Use --host 127.0.0.1, or --pods none"
        )
    try:
        listener = create_server((address, port), backlog=2048)
    except OSError as error:
        fix = "Give another --port, or stop the process that listens there"
        text = f"cannot listen on {address}:{port}: {error.strerror}. {fix}"
        raise OSError(error.errno, text) from None
    runtime.bind_address = address
    runtime.base_url = f"http://{address}:{listener.getsockname()[1]}"
    return listener


def make_server(options: Options, runtime: SimulatorRuntime) -> uvicorn.Server:
    config = uvicorn.Config(
        build_app(runtime, options.quotas),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
        # Longer than clients keep idle connections, so that none is closed while it is reused.
        timeout_keep_alive=120,
    )
    return ClosingServer(config, runtime)


class ClosingServer(uvicorn.Server):
    """Ends open log streams first.

    Otherwise uvicorn waits for them before it shuts the application down.
    """

    def __init__(self, config: uvicorn.Config, runtime: SimulatorRuntime) -> None:
        super().__init__(config)
        self._runtime = runtime

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._runtime.end_streams()
        await super().shutdown(sockets)


def serve(
    options: Options | None = None,
    *,
    address: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    on_ready: Callable[[str, str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; port 0 picks a free one.

    `on_ready` gets the base URL once requests are answered. Raises OSError when the address is in use."""
    options = options or Options()
    runtime = build_runtime(options)
    with bind(runtime, address, port) as listener:
        server = make_server(options, runtime)
        if on_ready is not None:
            threading.Thread(target=_notify_ready, args=(server, runtime, on_ready), daemon=True).start()
        # uvicorn shuts down and then raises the signal again.
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def _notify_ready(server: uvicorn.Server, runtime: SimulatorRuntime, on_ready: Callable[[str, str], None]) -> None:
    if _await_start(server):
        on_ready(runtime.base_url, runtime.simulator.account.api_keys[0])


def _await_start(server: uvicorn.Server, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not server.started and not server.should_exit and time.monotonic() < deadline:
        time.sleep(0.01)
    return server.started


@dataclass(frozen=True, slots=True)
class FakeServer:
    """A fake that serves in a thread.

    `runtime` may be read; change it over HTTP, on its event loop.
    """

    url: str
    api_key: str
    runtime: SimulatorRuntime


@contextlib.contextmanager
def running(options: Options | None = None) -> Iterator[FakeServer]:
    """Serve on a free loopback port for the length of the block.

    Raises RuntimeError when it does not start.
    """
    options = options or Options()
    runtime = build_runtime(options)
    listener = bind(runtime, "127.0.0.1", 0)
    server = make_server(options, runtime)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="fake-runpod")
    thread.start()
    try:
        if not _await_start(server):
            raise RuntimeError("the fake RunPod server did not start within 30 seconds")
        yield FakeServer(runtime.base_url, runtime.simulator.account.api_keys[0], runtime)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()

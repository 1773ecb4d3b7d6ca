"""Connects the pure simulator to time, containers and the state file.

Everything runs on one event loop; container runners report from their threads through `post`. The simulator
advances to the clock before any request is handled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from pod_worker.fake_runpod.cloud import snapshot
from pod_worker.fake_runpod.cloud.clock import VirtualClock
from pod_worker.fake_runpod.cloud.container_commands import ContainerCommand, StartContainer
from pod_worker.fake_runpod.cloud.resources import AccountResources
from pod_worker.fake_runpod.cloud.simulator import CloudSimulator
from pod_worker.fake_runpod.containers.runner import ContainerRunner, NoRunner, pod_env, start_command
from pod_worker.fake_runpod.request_log import RequestLog, TelemetryLog
from pod_worker.fake_runpod.timestamps import SECOND

MAX_SLEEP_SECONDS = 0.5
SAVE_EVERY_SECONDS = 2.0


class SimulatorRuntime:
    def __init__(self, simulator: CloudSimulator, clock: VirtualClock, *, state: Path | None = None) -> None:
        self.simulator = simulator
        self.clock = clock
        self.resources = AccountResources(simulator)
        self.requests = RequestLog()
        self.telemetry = TelemetryLog()
        self.base_url = ""
        self.bind_address = "127.0.0.1"
        self.runner: ContainerRunner = NoRunner()
        self.is_closing = False
        self._state = state
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closers: set[Callable[[], None]] = set()
        self._wake = asyncio.Event()

    def catch_up(self) -> None:
        """Advance the simulator to now and execute its container commands."""
        self.simulator.advance(self.clock.now_ns())
        for command in self.simulator.drain_commands():
            self._execute(command)

    def _execute(self, command: ContainerCommand) -> None:
        if isinstance(command, StartContainer):
            pod = self.simulator.find_hidden(command.pod_id)
            if pod is not None and pod.generation == command.generation:
                env = pod_env(pod, self.simulator.account, self.base_url)
                self.runner.start(pod, env, start_command(pod))
        else:
            notice = self.clock.real_seconds(command.notice_seconds)
            self.runner.stop(command.pod_id, command.reason, notice, is_final=command.remove_data)

    # reports of runners, from any thread

    def report_output(self, pod_id: str, line: str) -> None:
        self.post(lambda: self.simulator.record_output(pod_id, line))

    def report_exit(self, pod_id: str, generation: int, code: int) -> None:
        self.post(lambda: self.simulator.record_exit(pod_id, generation, code))

    def post(self, change: Callable[[], None]) -> None:
        """Apply a change on the event loop, at the virtual instant of its arrival."""

        def apply() -> None:
            self.simulator.advance(self.clock.now_ns())
            change()
            self.catch_up()

        # After the server has stopped, reports are discarded.
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(apply)

    # server lifetime

    async def run(self) -> None:
        """Advance the simulator and save it periodically, until cancelled."""
        self._loop = asyncio.get_running_loop()
        saved_at = self._loop.time()
        while True:
            self.catch_up()
            if self._loop.time() - saved_at >= SAVE_EVERY_SECONDS:
                self.save()
                saved_at = self._loop.time()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._sleep_seconds())

    def _sleep_seconds(self) -> float:
        due = self.simulator.next_due_ns()
        if due is None or not self.clock.speed:
            return MAX_SLEEP_SECONDS
        seconds = self.clock.real_seconds((due - self.clock.now_ns()) / SECOND)
        return min(max(seconds, 0.001), MAX_SLEEP_SECONDS)

    def wake(self) -> None:
        """Process timers at once after an explicit change of the clock."""
        self._wake.set()
        self.catch_up()

    def reset(self) -> None:
        """Empty the cloud of the account; end all containers and remove their folders."""
        for pod in self.simulator.all_pods():
            self.simulator.delete_silently(pod)
        self.catch_up()
        self.simulator.clear()
        self.requests.clear()
        self.telemetry.entries.clear()

    def on_closing(self, call: Callable[[], None]) -> Callable[[], None]:
        """Register `call` for the server's shutdown; returns the function that removes it."""
        self._closers.add(call)
        return lambda: self._closers.discard(call)

    def end_streams(self) -> None:
        self.is_closing = True
        for call in tuple(self._closers):
            call()

    def close(self) -> None:
        """Save the state and end every container."""
        self.end_streams()
        self.catch_up()
        self.save()
        self.runner.close()

    def save(self) -> None:
        if self._state is not None:
            snapshot.write(self._state, snapshot.capture(self.simulator))

"""A supervised thread survives every exception of its step and says what is wrong with it."""

from __future__ import annotations

import threading

import pytest

from pod_worker.process.supervised_thread import FAILURES_TO_REPORT, SupervisedThread, every


def test_an_exception_is_logged_counted_and_the_next_step_comes() -> None:
    outcomes = iter([ValueError("first"), OSError("second"), None])
    recovered = threading.Event()
    messages: list[str] = []

    def step() -> float:
        error = next(outcomes, None)
        if error:
            raise error
        recovered.set()
        return 60.0

    thread = SupervisedThread("t", step, backoff_seconds=(0.001, 0.01), log=messages.append)
    thread.start()
    assert recovered.wait(10)
    assert thread.stop()
    assert [message.split(";")[0] for message in messages] == [
        "thread t failed (ValueError: first)",
        "thread t failed (OSError: second)",
    ]
    assert thread.failures == 0


def test_failures_in_a_row_are_a_problem_until_a_step_succeeds() -> None:
    may_succeed = threading.Event()
    failed = threading.Semaphore(0)

    def step() -> float:
        if not may_succeed.is_set():
            failed.release()
            raise RuntimeError("no")
        failed.release()
        return 60.0

    thread = SupervisedThread("t", step, backoff_seconds=(0.001, 0.001), log=lambda _: None)
    thread.start()
    for _ in range(FAILURES_TO_REPORT + 1):
        assert failed.acquire(timeout=10)
    assert "RuntimeError: no" in (thread.problem() or "")
    may_succeed.set()
    while thread.failures:
        assert failed.acquire(timeout=10)
    assert thread.problem() is None
    thread.stop()


def test_a_step_that_does_not_return_is_a_problem() -> None:
    entered, leave = threading.Event(), threading.Event()

    def step() -> float:
        entered.set()
        leave.wait(30)
        return 60.0

    thread = SupervisedThread("t", step, stuck_seconds=0.0)
    thread.start()
    assert entered.wait(10)
    assert "stuck" in (thread.problem() or "")
    assert thread.stop(timeout=0.01) is False
    leave.set()
    assert thread.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_by_more_than_an_exception_is_a_problem() -> None:
    def step() -> float:
        raise SystemExit

    thread = SupervisedThread("t", step)
    thread.start()
    thread._thread.join(10)
    assert thread.problem() == "thread t is dead"


def test_a_step_may_end_the_thread_and_that_is_no_problem() -> None:
    thread = SupervisedThread("t", lambda: None)
    thread.start()
    assert thread.stop()
    assert thread.problem() is None


def test_a_wake_ends_the_pause_also_when_it_comes_during_the_step() -> None:
    steps: list[int] = []
    second = threading.Event()

    def step() -> float:
        steps.append(1)
        if len(steps) == 1:
            thread.wake()
        else:
            second.set()
        return 600.0

    thread = SupervisedThread("t", step)
    thread.start()
    assert second.wait(10)
    thread.stop()


def test_every_repeats_an_action() -> None:
    called: list[int] = []
    step = every(2.5, lambda: called.append(1))
    assert step() == 2.5
    assert called == [1]

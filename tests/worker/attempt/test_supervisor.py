"""How a supervisor ends a run: each step in turn, and which evidence decides the outcome."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from pymongo.database import Database

from pod_worker.core.failure import FailureCode
from pod_worker.core.outcome import Canceled, Failed, Lost, Released
from tests.worker.hostile import supervised

Db = Database[dict[str, Any]]

# Records SIGTERM in a file and exits; it does not read stop commands.
GOES_ON_TERM = """
def leave(*_):
    open(os.path.join(spec["work_dir"], "heard-term"), "w").close()
    os._exit(3)
os.makedirs(spec["work_dir"], exist_ok=True)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(600)
"""
FAILS_WHEN_ASKED = """
print("ready", flush=True)
commands.readline()
uplink.write(b'{"type":"outcome","kind":"failed","code":"USER_ERROR","message":"stopped in the middle"}\\n')
os._exit(1)
"""


def test_a_child_that_ignores_the_stop_command_gets_sigterm_before_sigkill(db: Db, tmp_path: Path) -> None:
    with supervised(db, tmp_path, GOES_ON_TERM) as attempt:
        attempt.wait_until(lambda: bool(attempt.logs))
        attempt.cancel()
        assert isinstance(attempt.result().outcome, Canceled)
        assert (tmp_path / "work" / "r" / "heard-term").exists(), "it was killed without a warning"


def test_what_a_run_reports_while_it_is_drained_costs_it_nothing(db: Db, tmp_path: Path) -> None:
    with supervised(db, tmp_path, FAILS_WHEN_ASKED) as attempt:
        attempt.wait_until(lambda: bool(attempt.logs))
        attempt.supervisor.drain("the pod goes away")
        assert attempt.result().outcome == Released("the pod goes away")
        run = attempt.document
    assert (run["status"], run["retryCount"], run["crashCount"]) == ("QUEUED", 0, 0)
    assert "leaseToken" not in run


def test_a_second_signal_kills_at_once_and_costs_nothing_either(db: Db, tmp_path: Path) -> None:
    with supervised(db, tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)") as attempt:
        attempt.supervisor.drain("go", force=True)
        assert isinstance(attempt.result().outcome, Released)
        assert (attempt.document["status"], attempt.document["crashCount"]) == ("QUEUED", 0)


def test_a_run_that_was_taken_away_is_killed_and_nothing_is_written(db: Db, tmp_path: Path) -> None:
    with supervised(db, tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)") as attempt:
        attempt.operations.reset("r", by="ana", force=True)
        before = attempt.document
        attempt.supervisor.renew_now()
        result = attempt.result()
        assert isinstance(result.outcome, Lost)
        assert "guard" not in result.outcome.reason, "at once, not when the last trust ran out"
        assert result.settlement is None
        assert attempt.document == before


def test_a_lease_that_ended_is_lost_even_before_another_worker_has_the_run(db: Db, tmp_path: Path) -> None:
    """Its fence still matches the document; but by now the next owner may be about to claim it."""
    with supervised(db, tmp_path, "time.sleep(600)") as attempt:
        over = [{"$set": {"leaseExpiresAt": {"$subtract": ["$$NOW", 1000]}}}]
        db.runs.update_one({"_id": "r"}, over)
        before = attempt.document
        attempt.supervisor.renew_now()
        result = attempt.result()
        assert isinstance(result.outcome, Lost)
        assert "taken away" in result.outcome.reason
        assert attempt.document == before


def test_a_death_without_a_request_is_a_failure_with_a_name(db: Db, tmp_path: Path) -> None:
    with supervised(db, tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)") as attempt:
        outcome = attempt.result().outcome
        assert isinstance(outcome, Failed)
        assert outcome.failure.code is FailureCode.CRASHED_SIGNAL
        assert signal.Signals.SIGSEGV.name in outcome.failure.message
        assert (attempt.document["status"], attempt.document["crashCount"]) == ("QUEUED", 1)


SAVES_WHEN_ASKED = """
print("ready", flush=True)
commands.readline()
uplink.write(b'{"type":"checkpoint","stage":"one","done":false,"state":{"step":7}}\\n')
uplink.write(b'{"type":"outcome","kind":"released","message":"stopped"}\\n')
os._exit(1)
"""


def test_an_attempt_ends_at_its_max_duration_and_may_save_a_checkpoint_first(db: Db, tmp_path: Path) -> None:
    with supervised(db, tmp_path, SAVES_WHEN_ASKED, max_duration_seconds=0.5) as attempt:
        outcome = attempt.result().outcome
        assert isinstance(outcome, Failed)
        assert outcome.failure.code is FailureCode.MAX_DURATION
        assert "max_duration of 0.5 s" in outcome.failure.message
        run = attempt.document
    assert (run["status"], run["errorCode"]) == ("FAILED", "MAX_DURATION")
    assert run["checkpoints"]["one"]["state"] == {"step": 7}


def test_a_child_that_ignores_everything_ends_at_its_max_duration_too(db: Db, tmp_path: Path) -> None:
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)"
    with supervised(db, tmp_path, program, max_duration_seconds=0.5) as attempt:
        outcome = attempt.result().outcome
        assert isinstance(outcome, Failed)
        assert outcome.failure.code is FailureCode.MAX_DURATION

"""A run that gives its secrets away in every form it has: none is in its document, its events or its output file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pymongo.database import Database

from pod_worker.core.credentials.secret import Redactor
from pod_worker.core.failure import FailureCode
from pod_worker.core.outcome import Failed
from pod_worker.core.payload import RunFailed
from tests.worker.hostile import supervised

Db = Database[dict[str, Any]]
SECRET = "hf_0123456789abcdef"
REDACTOR = Redactor([SECRET])
# The program gets the secret in two halves: its own text is in no event.
HALVES = 'secret = "hf_01234" + "56789abcdef"\n'


def test_an_outcome_and_a_checkpoint_hold_no_secret(db: Db, tmp_path: Path) -> None:
    program = (
        HALVES
        + """
def send(**message):
    uplink.write(json.dumps(message).encode() + b"\\n")
print("token", secret, flush=True)
send(type="checkpoint", stage="s", done=False, state={"url": "https://u:" + secret + "@h", secret: [secret]})
send(type="outcome", kind="failed", code="USER_ERROR", message="no access with " + secret,
     stage="s", traceback="Traceback\\n" + repr(secret))
os._exit(1)
"""
    )
    with supervised(db, tmp_path, program, redactor=REDACTOR) as attempt:
        outcome = attempt.result().outcome
    assert isinstance(outcome, Failed)
    assert outcome.failure.message == "no access with ***"
    assert attempt.document["checkpoints"]["s"]["state"] == {"url": "https://u:***@h", "***": ["***"]}
    (failed,) = (event for event in attempt.events if isinstance(event, RunFailed))
    assert failed.traceback == "Traceback\n'***'"
    output = (attempt.work_root / "r" / "output.log").read_text()
    assert output == "token ***\n"
    assert SECRET not in f"{attempt.document}{attempt.events}{outcome}"


def test_the_last_lines_of_a_crash_hold_no_secret(db: Db, tmp_path: Path) -> None:
    """Removed control characters had split it, so that only the finished text has it."""
    program = HALVES + "print(secret[:6] + '\\x1b[0m' + secret[6:], flush=True)\nos.kill(os.getpid(), 11)"
    with supervised(db, tmp_path, program, redactor=REDACTOR) as attempt:
        outcome = attempt.result().outcome
    assert isinstance(outcome, Failed)
    assert outcome.failure.code is FailureCode.CRASHED_SIGNAL
    assert outcome.failure.traceback == "***"
    assert attempt.document["errorTraceback"] == "***"

"""The messages between supervisor and child: one JSON object a line.

Down a pipe of its own: the spec, then `stop` commands. Up another pipe: ready, checkpoints, the outcome. Secrets
travel here, never in argv or the environment.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from pod_worker.core.failure import Failure, FailureCode, truncate
from pod_worker.core.lease import Fence
from pod_worker.core.model_access import ModelAccess
from pod_worker.core.outcome import Canceled, Failed, Outcome, Released, Succeeded
from pod_worker.core.run import Json, Run

COMMAND_FD_VARIABLE = "POD_WORKER_COMMAND_FD"
UPLINK_FD_VARIABLE = "POD_WORKER_UPLINK_FD"
MESSAGE_BYTES = 8 * 1024 * 1024
STATE_BYTES = 4 * 1024 * 1024  # as JSON; the run's document has room for 16 MiB in all
DEPTH_LIMIT = 64
STAGE_NAME_LIMIT = 200
TEXT_LIMIT = 20_000  # of an outcome's message and traceback


class AttemptSpec(msgspec.Struct):
    """Everything the child is given."""

    run: Run
    fence: Fence
    pod_id: str
    worker_id: str
    spool_dir: str
    spool_max_bytes: int
    work_dir: str
    control_plane_url: str
    attempt_token: str | None = None  # speaks for this attempt only (core.attempt_token)
    model_access: ModelAccess | None = None  # only for a pipeline that asks language models
    sandbox_floor: str = "default"  # POD_WORKER_SANDBOX_FLOOR
    job_secrets: dict[str, str] = {}  # of the command alone

    def secrets(self) -> list[str]:
        """What must not appear in any output of the child."""
        keys = [*(self.model_access.secrets() if self.model_access else []), *self.job_secrets.values()]
        return [*keys, self.attempt_token] if self.attempt_token else keys


class StopCommand(msgspec.Struct, tag="stop"):
    reason: str  # cancel | drain
    seconds: float = 0.0  # until SIGTERM follows


class ChildReady(msgspec.Struct, tag="ready"):
    pass


class CheckpointSaved(msgspec.Struct, tag="checkpoint"):
    stage: str
    done: bool
    state: dict[str, Json]


class OutcomeReported(msgspec.Struct, tag="outcome"):
    """How the attempt ended in the child's view; the supervisor decides."""

    kind: str  # succeeded | failed | canceled | released | lost
    summary: dict[str, Json] = {}
    code: str | None = None
    message: str = ""
    stage: str | None = None
    traceback: str | None = None
    awaits_review: bool = False
    exit_code: int | None = None

    @classmethod
    def of(cls, outcome: Outcome) -> OutcomeReported:
        match outcome:
            case Succeeded(summary, awaits_review):
                return cls("succeeded", summary=summary, awaits_review=awaits_review)
            case Failed(failure):
                return cls(
                    "failed",
                    code=failure.code.value,
                    message=failure.message,
                    stage=failure.stage,
                    traceback=failure.traceback,
                    exit_code=failure.exit_code,
                )
            case Canceled(_, reason):
                return cls("canceled", message=reason or "")
            case Released(reason):
                return cls("released", message=reason)
            case lost:
                return cls("lost", message=lost.reason)

    def outcome(self) -> Outcome | None:
        """None for `lost`: the supervisor learns that from the lease."""
        match self.kind:
            case "succeeded":
                return Succeeded(self.summary, self.awaits_review)
            case "failed":
                return Failed(self._failure())
            case "canceled":
                return Canceled(reason=self.message or None)
            case "released":
                return Released(self.message)
            case _:
                return None

    def _failure(self) -> Failure:
        trace = truncate(self.traceback, TEXT_LIMIT, keep_end=True) if self.traceback else None
        stage = self.stage[:STAGE_NAME_LIMIT] if self.stage else None
        try:
            return Failure(
                FailureCode(self.code or ""), truncate(self.message, TEXT_LIMIT), stage, trace, self.exit_code
            )
        except ValueError:
            message = truncate(f"unknown failure code {str(self.code)[:80]!r}: {self.message}", TEXT_LIMIT)
            return Failure(FailureCode.INTERNAL, message, stage, trace)


class MessageError(ValueError):
    """A message of the child that must not be used; the text names the fault."""


Message: TypeAlias = ChildReady | CheckpointSaved | OutcomeReported

_encoder = msgspec.json.Encoder()
_message_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(
    ChildReady | CheckpointSaved | OutcomeReported
)
_spec_decoder = msgspec.json.Decoder(AttemptSpec)
_stop_decoder = msgspec.json.Decoder(StopCommand)


def encode_line(message: msgspec.Struct) -> bytes:
    return _encoder.encode(message) + b"\n"


def decode_message(received: bytes) -> Message:
    """The message of a line.

    Raises msgspec.MsgspecError for a line that is no message, MessageError for one that must not be used.
    """
    try:
        message = _message_decoder.decode(received)
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(str(error)) from None
    if isinstance(message, CheckpointSaved):
        check_checkpoint(message.stage, message.state)
    return message


def check_checkpoint(stage: str, state: Json) -> None:
    """Raises MessageError for a checkpoint that the run's document cannot hold."""
    if not 0 < len(stage) <= STAGE_NAME_LIMIT or set(stage) & set(".$\0"):
        limits = f"1 to {STAGE_NAME_LIMIT} characters without dot, dollar and NUL"
        raise MessageError(f"the stage name {stage[:80]!r} cannot be used: it must have {limits}")
    try:
        fault = _fault(state, 0)
        size = len(_encoder.encode(state))
    except (RecursionError, TypeError, ValueError) as error:
        fault, size = f"holds a value that JSON cannot express ({error})", 0
    if size > STATE_BYTES:
        fault = f"has {size} bytes; at most {STATE_BYTES} are stored, so keep data in files or artifacts"
    if fault:
        raise MessageError(f"the checkpoint of stage {stage} {fault}")


def _fault(value: Json, depth: int) -> str | None:
    """What MongoDB could not store in this JSON value."""
    if depth > DEPTH_LIMIT:
        return f"is nested more than {DEPTH_LIMIT} levels deep"
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or "\0" in key:
                return f"has the key {str(key)[:80]!r}; keys are strings without NUL"
        return next((fault for each in value.values() if (fault := _fault(each, depth + 1))), None)
    if isinstance(value, list | tuple):
        return next((fault for each in value if (fault := _fault(each, depth + 1))), None)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"holds the number {value if abs(value) < 10**30 else 'of more than 30 digits'}, beyond 64 bits"
    return None


def read_spec(received: bytes) -> AttemptSpec:
    return _spec_decoder.decode(received)


def read_stop(received: bytes) -> StopCommand:
    return _stop_decoder.decode(received)

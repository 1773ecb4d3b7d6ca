"""The messages between supervisor and child: one JSON object a line.

Down a pipe of its own: the spec, then `stop` commands. Up another pipe: ready, checkpoints, the outcome. Secrets
travel here, never in argv or the environment.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from pod_worker.core.failure import Failure, FailureCode
from pod_worker.core.lease import Fence
from pod_worker.core.outcome import Canceled, Failed, Outcome, Released, Succeeded
from pod_worker.core.run import Json, Run

UPLINK_FD_VARIABLE = "POD_WORKER_UPLINK_FD"


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
    control_plane_token: str | None = None


class StopCommand(msgspec.Struct, tag="stop"):
    reason: str  # cancel | drain


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

    @classmethod
    def of(cls, outcome: Outcome) -> OutcomeReported:
        match outcome:
            case Succeeded(summary):
                return cls("succeeded", summary=summary)
            case Failed(failure):
                return cls(
                    "failed",
                    code=failure.code.value,
                    message=failure.message,
                    stage=failure.stage,
                    traceback=failure.traceback,
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
                return Succeeded(self.summary)
            case "failed":
                code = FailureCode(self.code or FailureCode.INTERNAL)
                return Failed(Failure(code, self.message, self.stage, self.traceback))
            case "canceled":
                return Canceled(reason=self.message or None)
            case "released":
                return Released(self.message)
            case _:
                return None


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
    """Raises msgspec.MsgspecError on anything else."""
    return _message_decoder.decode(received)


def read_spec(received: bytes) -> AttemptSpec:
    return _spec_decoder.decode(received)


def read_stop(received: bytes) -> StopCommand:
    return _stop_decoder.decode(received)

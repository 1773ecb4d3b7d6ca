"""The messages between client, server and keeper: JSON, one object a message.

The client sends commands on a SOCK_SEQPACKET socket. Each carries the descriptor of a stream socket for its
answers, one object a line.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from pod_worker.core.execution import ExecutionRequest, ExecutionResult

COMMAND_BYTES = 128 * 1024
STOP, TERMINATE = b"stop", b"term"


class ExecuteCommand(msgspec.Struct, tag="execute"):
    """Answers: KeeperStarted, then ExecutionFinished or ExecutionRefused.

    With a second descriptor, the output of the program goes there too.
    """

    request: ExecutionRequest


class RemoveCommand(msgspec.Struct, tag="remove"):
    """Delete what the server's user can delete. Answer: CommandDone."""

    folder: Path


class SweepCommand(msgspec.Struct, tag="sweep"):
    """Kill this keeper, if it lives, and each process without one.

    Answer: CommandDone.
    """

    keeper: int


class DescribeCommand(msgspec.Struct, tag="describe"):
    """Answer: ServerDescription."""


class ServerDescription(msgspec.Struct, tag="server"):
    pid: int
    uid: int
    gid: int
    landlock_abi: int
    preloaded: tuple[str, ...]
    executions: int


class KeeperStarted(msgspec.Struct, tag="started"):
    keeper: int


class ExecutionFinished(msgspec.Struct, tag="finished"):
    result: ExecutionResult


class ExecutionRefused(msgspec.Struct, tag="refused"):
    code: str  # of core.failure.FailureCode
    message: str


class CommandDone(msgspec.Struct, tag="done"):
    pass


Command: TypeAlias = ExecuteCommand | RemoveCommand | SweepCommand | DescribeCommand
Answer: TypeAlias = ServerDescription | KeeperStarted | ExecutionFinished | ExecutionRefused | CommandDone


def _encode_path(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind.__name__)


_encoder = msgspec.json.Encoder(enc_hook=_encode_path)
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(
    ExecuteCommand | RemoveCommand | SweepCommand | DescribeCommand, dec_hook=_decode_path
)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(
    ServerDescription | KeeperStarted | ExecutionFinished | ExecutionRefused | CommandDone, dec_hook=_decode_path
)


def encode(message: msgspec.Struct) -> bytes:
    return _encoder.encode(message)


def decode_answer(line: bytes) -> Answer:
    return _answers.decode(line)


def send_command(
    control: socket.socket, command: msgspec.Struct, answers: socket.socket, output: int | None = None
) -> None:
    """Raises OSError when the server is gone."""
    fds = [answers.fileno(), *([output] if output is not None else [])]
    socket.send_fds(control, [encode(command)], fds)


def receive_command(control: socket.socket) -> tuple[Command, int, int] | None:
    """A command and the descriptors for answers and output; -1 for an absent one.

    None when the client is gone.

    Raises msgspec.MsgspecError for a message that is no command; its descriptors are closed.
    """
    received, fds, _, _ = socket.recv_fds(control, COMMAND_BYTES, 4)
    if not received:
        return None
    answer, output, *surplus = [*fds, *[-1] * max(2 - len(fds), 0)]
    for fd in surplus:
        socket.close(fd)
    try:
        return _commands.decode(received), answer, output
    except msgspec.MsgspecError:
        for fd in (answer, output):
            if fd >= 0:
                socket.close(fd)
        raise


def send_answer(fd: int, answer: msgspec.Struct) -> None:
    """A line on a stream socket; a client that is gone is no error."""
    data = memoryview(encode(answer) + b"\n")
    connection = socket.socket(fileno=fd)
    try:
        connection.sendall(data)
    except OSError:
        pass
    finally:
        connection.detach()

"""The variables that `pods create` gives to the pod.

From this environment, from a file, or from the command line.

Other users of this machine read a command line in `ps`, and shells keep it in their history. So a secret is never
taken from there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import say
from pod_worker.config import read_dotenv
from pod_worker.core.credentials.secret import is_secret_name, is_url_with_credentials

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def pod_environment(given: tuple[str, ...], files: tuple[Path, ...]) -> dict[str, str]:
    """The files' variables in order, then `NAME` and `NAME=VALUE`.

    Raises CommandError.
    """
    found: dict[str, str] = {}
    for path in files:
        found |= _of_file(path)
    for text in given:
        name, separator, value = text.partition("=")
        if not _NAME.fullmatch(name):
            raise CommandError(f"{text[:40]!r} is neither NAME nor NAME=VALUE", ExitCode.USAGE)
        found[name] = _checked(name, value) if separator else _of_this_environment(name)
    if any("=" in text for text in given):
        say("note: other users of this machine can read the values of -e NAME=VALUE in `ps`")
    return found


def _of_file(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise CommandError(f"--env-file {path}: there is no such file", ExitCode.USAGE)
    return read_dotenv(path)


def _of_this_environment(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise CommandError(
            f"-e {name}: the variable is not set here. Export it, or write it into a file for --env-file.",
            ExitCode.USAGE,
        )
    return value


def _checked(name: str, value: str) -> str:
    if is_secret_name(name) or is_url_with_credentials(value):
        raise CommandError(
            f"-e {name}=…: `ps` and the shell's history would show the value of a secret. Export {name} "
            f"and pass -e {name}, or write it into a file for --env-file.",
            ExitCode.USAGE,
        )
    return value

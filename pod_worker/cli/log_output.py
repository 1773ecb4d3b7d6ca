"""Logging of the daemons: one line per record on stderr, without secrets."""

from __future__ import annotations

import logging
import sys

from pod_worker.config import known_secrets
from pod_worker.core.credentials.secret import Redactor

NOISY_LIBRARIES = ("pymongo", "urllib3", "httpx")


class RedactingFormatter(logging.Formatter):
    """Masks known secrets in the whole record: message, arguments and traceback."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(message)s", "%Y-%m-%d %H:%M:%S")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


def make_redactor() -> Redactor:
    """Masks every secret of this process's environment and `.env`."""
    return Redactor(known_secrets())


def configure_logging(debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(make_redactor()))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler])
    for name in NOISY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)

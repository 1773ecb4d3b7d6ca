"""Sends what libraries print to the run's log, without their progress bars.

Undone on leaving, so that nothing outside a training hears less than before.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

LIBRARIES = ("transformers", "peft", "bitsandbytes", "huggingface_hub", "accelerate", "torch")
REPEATS = 3

Log = Callable[[str, str], None]


@contextmanager
def redirect_library_logs(log: Log) -> Iterator[None]:
    """`log(message, level)` gets each distinct library message a few times.

    The level is debug or warning.
    """
    # The tokenizer's own threads are wanted; saying so also ends its warning about forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    handler = _Handler(log)
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    with _no_bars(), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = handler.warn
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
        try:
            yield
        finally:
            for logger, handlers, propagate in before:
                logger.handlers, logger.propagate = handlers, propagate


@contextmanager
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging as bars

    was_shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            bars.enable_progress_bar()


class _Handler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._seen: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        # A missing optional kernel is a library's business, not a fault of the run.
        level = "warning" if record.levelno >= logging.ERROR else "debug"
        self._once(f"{record.name}: {record.getMessage()}", level)

    def warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        # Deprecation warnings concern the maintainers of this package, not its users.
        if not issubclass(category, DeprecationWarning | FutureWarning | PendingDeprecationWarning):
            self._once(f"{category.__name__}: {message}", "debug")

    def _once(self, text: str, level: str) -> None:
        self._seen[text] = self._seen.get(text, 0) + 1
        if self._seen[text] <= REPEATS:
            self._log(text, level)

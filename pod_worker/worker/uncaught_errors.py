"""Uncaught errors become log events, in the main thread and in every other one.

Python prints such an error to standard error, which may not be read; a log event is shown with the run.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType

from pod_worker.core.failure import classify
from pod_worker.core.payload import RunLog


def install(
    report: Callable[[RunLog], object], source: str, redact: Callable[[str], str] = lambda text: text
) -> None:
    """Report and print uncaught errors of this process, both without secrets."""

    def report_error(
        kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, where: str
    ) -> None:
        if issubclass(kind, KeyboardInterrupt | SystemExit):
            return
        failure = classify((error or kind()).with_traceback(trace))
        details = {"code": failure.code.value, "traceback": redact(failure.traceback or "")}
        message = redact(f"uncaught in {where}: {failure.message}")
        print(f"{message}\n{details['traceback']}", file=sys.stderr, end="")
        report(RunLog(level="error", message=message, kv=details, source=source))

    def in_main(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        report_error(kind, error, trace, "the main thread")
        if issubclass(kind, KeyboardInterrupt | SystemExit):
            sys.__excepthook__(kind, error, trace)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else "?"
        report_error(args.exc_type, args.exc_value, args.exc_traceback, f"thread {name}")

    sys.excepthook = in_main
    threading.excepthook = in_thread

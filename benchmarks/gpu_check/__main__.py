"""`python -m benchmarks.gpu_check`: options, the table and the exit code."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_check.checks import CHECKS, MachineCheck
from benchmarks.gpu_check.runner import CheckResult, Status, run_checks

DEADLINE_SECONDS = 480.0
NO_GPU = 2
INCOMPLETE = 3
EPILOG = """\
exit codes: 0 every row is ok or skipped; 1 a row failed; 2 there is no GPU (or wrong usage); 3 no row failed, but
some were not run for lack of time.

rows: """ + ", ".join(each.name for each in CHECKS)


def main(arguments: Sequence[str] | None = None, checks: Sequence[MachineCheck] = CHECKS) -> int:
    began = time.monotonic()
    options = _options(arguments)
    if not options.cpu and not has_gpu(Path("/dev")):
        print(
            "gpu_check: this machine has no NVIDIA GPU (no /dev/nvidia*). `--cpu` runs what a CPU can.",
            file=sys.stderr,
        )
        return NO_GPU
    selected = [each for each in checks if not options.only or any(word in each.name for word in options.only)]
    if not selected:
        print(f"gpu_check: no row is named {' or '.join(options.only)}. --help lists them.", file=sys.stderr)
        return NO_GPU
    show = _silent if options.json else _print_row
    results = run_checks(selected, began + options.deadline, is_cpu=options.cpu, on_result=show)
    if options.json:
        print(json.dumps([result.as_json() for result in results], indent=1))
    return exit_code(results)


def exit_code(results: Sequence[CheckResult]) -> int:
    found = {result.status for result in results}
    if Status.FAILED in found:
        return 1
    return INCOMPLETE if Status.NOT_RUN in found else 0


def has_gpu(devices: Path) -> bool:
    """Whether the kernel shows an NVIDIA device; whether it computes is for the rows to say."""
    return any(devices.glob("nvidia[0-9]*")) or (devices / "dxg").exists()  # dxg: Windows' Linux subsystem


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu_check",
        description="Check that this machine trains: precision, attention and packing per model family, 4 bits, "
        "memory errors, GPU figures, resume, speed. Downloads nothing.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cpu", action="store_true", help="use the CPU: every row that makes sense there, small")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="only rows whose name has it")
    parser.add_argument(
        "--deadline", type=float, default=DEADLINE_SECONDS, metavar="SECONDS", help="for all rows [default: 480]"
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, at the end")
    return parser.parse_args(arguments)


def _print_row(result: CheckResult) -> None:
    figure = f"{result.status.value} ({result.figure})" if result.status is Status.SKIPPED else result.status.value
    shown = "" if result.status is Status.SKIPPED else result.figure
    print(f"{result.name:<28} {figure:<10} {result.seconds:6.1f} s  {shown}".rstrip(), flush=True)


def _silent(_result: CheckResult) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())

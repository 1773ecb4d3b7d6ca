"""Did a worker crash without a fault, is a process left over, and which faults were injected?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from chaos.drill import FAULT_EXITS, ChaosRecord, WorkerExit
from chaos.report import Row, info_row, zero_target_row


def rows(record: ChaosRecord) -> Iterator[Row]:
    fallen = [
        f"{each.name} on {each.pod}: exit code {each.code}; {_last_words(each)}"
        for each in fallen_workers(record.ends)
    ]
    meaning = "a worker ended without having been killed or asked to"
    yield zero_target_row("workers fallen", fallen, meaning, of=len(record.ends))
    stuck = [entry.kind for entry in record.journal.entries if entry.what == "worker stuck"]
    yield zero_target_row("workers stuck", stuck, "had to be killed a minute after the last SIGTERM")
    left = [f"pid {each.pid} of {each.attempt} on {each.pod}" for each in record.left]
    yield zero_target_row("left running", left, "processes of runs after the last worker has stopped")
    struck = Counter(entry.kind for entry in record.journal.entries if entry.what == "strike")
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(struck.items()))
    yield info_row("faults", str(sum(struck.values())), listed or "none")
    for kind, why in record.skipped.items():
        yield info_row("fault skipped", kind, why)


def fallen_workers(ends: Sequence[WorkerExit]) -> list[WorkerExit]:
    return [each for each in ends if each.code not in FAULT_EXITS]


def _last_words(ended: WorkerExit) -> str:
    lines = ended.log.read_text(errors="replace").splitlines() if ended.log.exists() else []
    return lines[-1][:300] if lines else "no word in its log"

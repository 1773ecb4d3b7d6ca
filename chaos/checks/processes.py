"""Did a worker fall by itself, and is anything left running? And what was done to them?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from chaos.drill import FAULT_EXITS, Ended, Record
from chaos.report import Row, none_wanted, told


def rows(record: Record) -> Iterator[Row]:
    fallen = [
        f"{each.name} on {each.pod}: exit code {each.code}; {_last_words(each)}"
        for each in fallen_workers(record.ends)
    ]
    meaning = "a worker ended without having been killed or asked to"
    yield none_wanted("workers fallen", fallen, meaning, of=len(record.ends))
    stuck = [entry.kind for entry in record.journal.entries if entry.what == "worker stuck"]
    yield none_wanted("workers stuck", stuck, "had to be killed a minute after the last SIGTERM")
    left = [f"pid {each.pid} of {each.attempt} on {each.pod}" for each in record.left]
    yield none_wanted("left running", left, "processes of runs after the last worker has stopped")
    struck = Counter(entry.kind for entry in record.journal.entries if entry.what == "strike")
    told_of = ", ".join(f"{count} {kind}" for kind, count in sorted(struck.items()))
    yield told("faults", str(sum(struck.values())), told_of or "none")
    for kind, why in record.skipped.items():
        yield told("fault skipped", kind, why)


def fallen_workers(ends: Sequence[Ended]) -> list[Ended]:
    return [each for each in ends if each.code not in FAULT_EXITS]


def _last_words(ended: Ended) -> str:
    lines = ended.log.read_text(errors="replace").splitlines() if ended.log.exists() else []
    return lines[-1][:300] if lines else "no word in its log"

"""Which rows of the table must turn red when a guard of the product is taken out, and which faults show it.

`python -m chaos --sabotage NAME` runs the harness against the sabotaged product and succeeds when it was caught.
The sabotage itself is done inside the pods' and control planes' processes, see `chaos/inside`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chaos.report import Row, missed

VARIABLE = "CHAOS_SABOTAGE"


@dataclass(frozen=True, slots=True)
class Mutation:
    """`rows`: any of them missed means caught. `faults`: what brings it to light."""

    name: str
    meaning: str
    rows: tuple[str, ...]
    faults: tuple[str, ...]


_DEATHS = ("freeze_worker", "kill_worker", "db_cut", "db_hang", "replace_worker", "reset_run")
_INGEST = ("ingest_cut", "ingest_drop_replies", "kill_control")

SABOTAGES = {
    each.name: each
    for each in (
        Mutation("token", "writes are filtered by the run's id alone", ("stale writes accepted",), _DEATHS),
        Mutation("self_fence", "no process kills a run whose lease is over", ("overlap",), _DEATHS),
        Mutation("checkpoints", "no finished stage is skipped", ("doubled effects",), _DEATHS),
        Mutation("append", "one event in 200 never reaches the disk", ("promises broken",), _INGEST),
        Mutation("acknowledge", "a failed request counts as taken", ("events missing",), _INGEST),
        Mutation("rescue", "leases are rescued before their end", ("stale writes accepted",), ("db_delay",)),
        Mutation(
            "versions",
            "what arrives last wins",
            ("view ≠ replayed view", "view ≠ shuffled view"),
            ("kill_while_offline", "kill_worker"),
        ),
    )
}


def verdict(sabotage: Mutation, rows: Sequence[Row]) -> tuple[bool, str]:
    """Whether it was caught, and the sentence that says so."""
    red = [row.name for row in missed(rows)]
    if set(sabotage.rows) & set(red):
        return True, f"caught: {sabotage.meaning}; red are {', '.join(red)}"
    return False, f"NOT CAUGHT: {sabotage.meaning}; red are {', '.join(red) or 'none'}, not {sabotage.rows}"

"""The state of the fake cloud as one JSON file.

It holds pods, money, volumes, templates, timers, fault rules and the virtual instant. The file is replaced
atomically and has mode 0600, because pods' environments may hold secrets. Logs and request counts are not saved.
Virtual time does not advance while the server is down.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from pod_worker.core.run import Json
from pod_worker.fake_runpod.billing.ledger import Archive, BilledItem, Ledger, UsageMeter
from pod_worker.fake_runpod.cloud.account import Account
from pod_worker.fake_runpod.cloud.faults import FaultRule
from pod_worker.fake_runpod.cloud.pod import Pod
from pod_worker.fake_runpod.cloud.simulator import CloudSimulator
from pod_worker.fake_runpod.cloud.timers import Timer

FORMAT = 2
_RENAMED_IN_2 = {
    "pods": {"life": "generation", "fate": "injected_faults"},
    "timers": {"life": "generation"},
    "rules": {"struck": "triggered"},
    "entries": {"tally": "usage"},
    "archives": {"line": "item"},
}
"""Field names of format 1 and their names in format 2, by list."""


class SavedLedger(msgspec.Struct):
    entries: list[BilledItem]
    archives: list[Archive]
    total: UsageMeter


class Snapshot(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    now_ns: int
    account: Account
    pods: list[Pod]
    timers: list[Timer]
    pod_ledger: SavedLedger
    volume_ledger: SavedLedger
    rules: list[FaultRule]


def capture(simulator: CloudSimulator) -> Snapshot:
    return Snapshot(
        format=FORMAT,
        now_ns=simulator.now_ns,
        account=simulator.account,
        pods=simulator.all_pods(),
        timers=simulator.timers.timers(),
        pod_ledger=_saved(simulator.billing.pods),
        volume_ledger=_saved(simulator.billing.volumes),
        rules=simulator.faults.rules,
    )


def restore(simulator: CloudSimulator, saved: Snapshot) -> None:
    """Into a fresh simulator whose account is the saved one."""
    simulator.now_ns = saved.now_ns
    simulator.timers.restore(saved.timers)
    simulator.faults.restore(saved.rules)
    for ledger, kept in (
        (simulator.billing.pods, saved.pod_ledger),
        (simulator.billing.volumes, saved.volume_ledger),
    ):
        ledger.restore(kept.entries, kept.archives, kept.total)
    simulator.adopt_saved(saved.pods)


def write(path: Path, state: Snapshot) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(state))
    os.replace(draft, path)


def read(path: Path) -> Snapshot | None:
    """None when there is no file yet. Reads formats 1 and 2.

    Raises ValueError for any other file.
    """
    if not path.exists():
        return None
    text = path.read_bytes()
    try:
        if msgspec.json.decode(text, type=_Header).format == 1:
            text = msgspec.json.encode(_upgraded(msgspec.json.decode(text)))
        state = msgspec.json.decode(text, type=Snapshot)
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a state file of this fake ({error}): give another --state") from error
    if state.format != FORMAT:
        raise ValueError(
            f"{path} has format {state.format}, this fake reads 1 and {FORMAT}: delete it to start over"
        )
    return state


class _Header(msgspec.Struct):
    format: int


def _upgraded(state: Json) -> Json:
    """A format 1 state under the field names of format 2."""
    for name in ("pod_ledger", "volume_ledger"):
        state[name]["entries"] = state[name].pop("lines")
    for holder in (state, state["pod_ledger"], state["volume_ledger"]):
        for name, renamed in _RENAMED_IN_2.items():
            for row in holder.get(name, ()):
                row.update({renamed[old]: row.pop(old) for old in tuple(row) if old in renamed})
    for ledger in (state["pod_ledger"], state["volume_ledger"]):
        for archive in ledger["archives"]:
            archive["item"]["usage"] = archive["item"].pop("tally")
    return state | {"format": 2}


def _saved(ledger: Ledger) -> SavedLedger:
    return SavedLedger(list(ledger.entries.values()), list(ledger.archives.values()), ledger.total)

"""The fake cloud as one JSON file: pods, money, volumes, templates, timers, fault rules and the virtual instant.

Written whole and renamed into place, readable by its owner alone, because pods' environments may hold secrets.
Logs and request counts are not kept. Virtual time stands still while the server is down.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from pod_worker.fake_runpod.billing.ledger import Archive, BilledItem, Ledger, UsageMeter
from pod_worker.fake_runpod.cloud.account import Account
from pod_worker.fake_runpod.cloud.faults import FaultRule
from pod_worker.fake_runpod.cloud.pod import Pod
from pod_worker.fake_runpod.cloud.simulator import CloudSimulator
from pod_worker.fake_runpod.cloud.timers import Timer

FORMAT = 1


class SavedLedger(msgspec.Struct):
    lines: list[BilledItem]
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


def capture(world: CloudSimulator) -> Snapshot:
    return Snapshot(
        format=FORMAT,
        now_ns=world.now_ns,
        account=world.account,
        pods=world.all_pods(),
        timers=world.agenda.timers(),
        pod_ledger=_saved(world.treasury.pods),
        volume_ledger=_saved(world.treasury.volumes),
        rules=world.faults.rules,
    )


def restore(world: CloudSimulator, saved: Snapshot) -> None:
    """Into a fresh world whose account is the saved one."""
    world.now_ns = saved.now_ns
    world.agenda.restore(saved.timers)
    world.faults.restore(saved.rules)
    for ledger, kept in ((world.treasury.pods, saved.pod_ledger), (world.treasury.volumes, saved.volume_ledger)):
        ledger.restore(kept.lines, kept.archives, kept.total)
    world.adopt_saved(saved.pods)


def write(path: Path, state: Snapshot) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(state))
    os.replace(draft, path)


def read(path: Path) -> Snapshot | None:
    """None when there is no file yet. Raises ValueError for a file that is not ours."""
    if not path.exists():
        return None
    try:
        state = msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is not a state file of this fake ({error}): give another --state") from error
    if state.format != FORMAT:
        raise ValueError(f"{path} has format {state.format}, this fake reads {FORMAT}: delete it to start over")
    return state


def _saved(ledger: Ledger) -> SavedLedger:
    return SavedLedger(list(ledger.lines.values()), list(ledger.archives.values()), ledger.total)

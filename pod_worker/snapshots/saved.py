"""The part of the run's document that names the snapshots and their packs."""

from __future__ import annotations

import msgspec

from pod_worker.core.run import CHECKPOINT_STATE_LIMIT_BYTES, Json

STATE_KEY = "snapshots"
_STATE_BYTES = CHECKPOINT_STATE_LIMIT_BYTES // 2  # the other half is for the rest of the stage's state


class SavedSnapshot(msgspec.Struct, frozen=True):
    """A whole snapshot in the artifact store: its manifest and its packs."""

    number: int
    key: str
    sha256: str
    bytes: int  # of the files
    files: int
    packs: tuple[str, ...]


class _Saved(msgspec.Struct, frozen=True):
    packs: list[str]
    kept: list[dict[str, Json]]  # newest first; their packs are positions in `packs`


def encode_saved(kept: list[SavedSnapshot]) -> tuple[list[SavedSnapshot], dict[str, Json]]:
    """The newest snapshots that the document has room for, and their state."""
    while True:
        packs = list(dict.fromkeys(key for each in kept for key in each.packs))
        place = {key: position for position, key in enumerate(packs)}
        rows = [{**msgspec.to_builtins(each), "packs": [place[key] for key in each.packs]} for each in kept]
        state: dict[str, Json] = {"packs": packs, "kept": rows}
        if len(kept) <= 1 or len(msgspec.json.encode(state)) <= _STATE_BYTES:
            return kept, state
        kept = kept[:-1]


def decode_saved(state: Json) -> list[SavedSnapshot]:
    """Newest first. Raises msgspec.ValidationError, IndexError, TypeError."""
    if state is None:
        return []
    saved = msgspec.convert(state, _Saved)
    rows = [{**row, "packs": [saved.packs[int(place)] for place in row["packs"]]} for row in saved.kept]
    return msgspec.convert(rows, list[SavedSnapshot])

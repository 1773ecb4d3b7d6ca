"""Finds a run by what people type: its id, its name, or the beginning of its id."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pod_worker.store.mongo import Document
from pod_worker.store.views.read_models import ReadModels
from pod_worker.submission.errors import NoSuchRunError


def find_run(models: ReadModels, word: str, note: Callable[[str], object] = lambda _text: None) -> Document:
    """The run; of several with that name, the newest, and `note` hears of it.

    Raises NoSuchRunError.
    """
    run = models.run(word) or _newest_named(models, word, note)
    if run is not None:
        return run
    near = models.ids_with_prefix(word, 3)
    if len(near) == 1 and (found := models.run(near[0])) is not None:
        return found
    if near:
        raise NoSuchRunError(f"{word!r} is the beginning of several ids: {', '.join(near)}")
    raise NoSuchRunError(f"there is no run {word!r}, neither by id nor by name. See `pod-worker runs list`.")


def find_ids(models: ReadModels, words: Iterable[str], note: Callable[[str], object]) -> list[str]:
    """Full ids in the given order, each once. Raises NoSuchRunError."""
    return list(dict.fromkeys(str(find_run(models, word, note)["_id"]) for word in words))


def _newest_named(models: ReadModels, name: str, note: Callable[[str], object]) -> Document | None:
    found = models.ids_of_name(name, 2)
    if len(found) > 1:
        note(f"{name}: several runs have this name; this is the newest one, {found[0]}")
    return models.run(found[0]) if found else None

"""Pipelines of other packages, found by their entry points.

The group is `pod_worker.pipelines`. A package names a `Pipeline` object in its pyproject.toml:
`[project.entry-points."pod_worker.pipelines"]`, `render = "my_package.render:PIPELINE"`. One package that cannot
be imported makes its own pipeline unusable, and no other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from pod_worker.pipeline import Pipeline

GROUP = "pod_worker.pipelines"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class PluginFault:
    """Why an installed pipeline cannot be used; the message has the fix."""

    name: str
    message: str


def load_plugins(
    own: Collection[str], entries: Iterable[EntryPoint] | None = None
) -> tuple[dict[str, Pipeline], list[PluginFault]]:
    """Installed pipelines by name, and what cannot be used.

    `own` are names that no package may take; `entries` are those of the installed packages unless given.
    """
    plugins: dict[str, Pipeline] = {}
    faults: list[PluginFault] = []
    found = entry_points(group=GROUP) if entries is None else entries
    for entry in sorted(found, key=lambda entry: (entry.name, entry.value)):
        loaded = _load(entry, {*own, *plugins})
        if isinstance(loaded, Pipeline):
            plugins[loaded.name] = loaded
        else:
            faults.append(loaded)
    return plugins, faults


def _load(entry: EntryPoint, taken: Collection[str]) -> Pipeline | PluginFault:
    package = entry.dist.name if entry.dist else "unknown"

    def fault(problem: str) -> PluginFault:
        where = f"Pipeline {entry.name!r} of package {package} ({entry.value})"
        return PluginFault(entry.name, f"{where} {problem}")

    if entry.name in taken:
        return fault("is left out, because the name is taken. Rename its entry point.")
    if not _NAME.fullmatch(entry.name):
        return fault("is left out: a name has lower-case letters, digits, '_' or '-'. Rename its entry point.")
    try:
        loaded = entry.load()
    except Exception as error:  # whatever a foreign module raises
        reason = f"{type(error).__name__}: {error}"
        return fault(f"cannot be imported: {reason}. Install what it needs, or uninstall the package.")
    if not isinstance(loaded, Pipeline):
        return fault(f"is a {type(loaded).__name__}. Name a pod_worker.pipeline.Pipeline object.")
    if loaded.name != entry.name:
        return fault(f"calls itself {loaded.name!r}. Give the entry point the same name.")
    return loaded

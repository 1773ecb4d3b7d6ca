"""How the server would execute what a client asked: the stages of the winning plans."""

from __future__ import annotations

from typing import Any

_DROPPED = {"lsid", "$clusterTime", "$db", "readConcern", "$readPreference", "txnNumber", "writeConcern"}


def plans(database: Any, command: dict[str, Any]) -> list[str]:
    """The stages of the winning plan of each part of a command."""
    name = next(iter(command))
    if name in ("update", "delete"):
        key = "updates" if name == "update" else "deletes"
        parts = [{name: command[name], key: [each]} for each in command[key]]
    else:
        parts = [explainable(command)]
    return [
        stage for part in parts for stage in stages(database.command("explain", part, verbosity="queryPlanner"))
    ]


def explainable(command: dict[str, Any]) -> dict[str, Any]:
    """The command without what belongs to the connection that sent it."""
    return {each: value for each, value in command.items() if each not in _DROPPED}


def stages(found: Any) -> list[str]:
    if isinstance(found, dict):
        own = [found["stage"]] if isinstance(found.get("stage"), str) else []
        return own + [stage for key, value in found.items() if key != "rejectedPlans" for stage in stages(value)]
    if isinstance(found, list):
        return [stage for each in found for stage in stages(each)]
    return []

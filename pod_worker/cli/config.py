"""`pod-worker config show`: each setting and its origin.

Of a secret it shows only whether it is set.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_json, print_table
from pod_worker.config import SettingOrigin, read_dotenv
from pod_worker.core.credentials.secret import MASK, has_credentials
from pod_worker.stack_settings import load_settings_with_origins

SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD")


@click.group()
def config() -> None:
    """Show the settings and the origin of each."""


@config.command()
@click.option("--origin", is_flag=True, help="Also show the origin of each value.")
@json_option
def show(origin: bool, as_json: bool) -> None:
    """Print every setting; secrets are masked."""
    origins = [*load_settings_with_origins()[1], *_runpod_origins()]
    if as_json:
        print_json([{"name": each.name, "value": each.shown, "origin": each.source} for each in origins])
        return
    columns = ["setting", "value", "origin"] if origin else ["setting", "value"]
    rows = [[each.name, each.shown or "-", each.source][: len(columns)] for each in origins]
    print_table(columns, rows, {"origin": {"default": "dim"}})


def _runpod_origins() -> list[SettingOrigin]:
    """The RUNPOD_* variables that are set.

    They are the settings of `pod-worker pods` and of pods themselves.
    """
    sources = {".env": read_dotenv(Path(".env")), "environment": {n: v for n, v in os.environ.items() if v}}
    found = {
        name: SettingOrigin(name, source, MASK if _is_secret(name, value) else value)
        for source, values in sources.items()
        for name, value in values.items()
        if name.startswith("RUNPOD_") and name != "RUNPOD_API_KEY"
    }
    return [found[name] for name in sorted(found)]


def _is_secret(name: str, value: str) -> bool:
    is_path = name.endswith(("_PATH", "_FILE"))
    return (not is_path and any(word in name for word in SECRET_WORDS)) or has_credentials(value)

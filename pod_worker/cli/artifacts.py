"""`pod-worker artifacts …`: what runs have produced, and fetching it with its hash checked."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import click
import requests

from pod_worker.cli.composition import load_settings, open_store
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.output import print_json, print_table, say, size
from pod_worker.core.secret import revealed


@click.group()
def artifacts() -> None:
    """List and fetch what runs have produced."""


@artifacts.command("list")
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def list_artifacts(run_id: str, as_json: bool) -> None:
    """The artifacts of a run."""
    found = list(open_store().database.artifacts.find({"runId": run_id}, {"v": 0}).sort("createdAt", 1))
    if as_json:
        print_json(found)
        return
    rows = [
        [
            str(a["key"]),
            str(a.get("kind")),
            size(a.get("bytes") or 0),
            str(a.get("role") or "-"),
            str(a.get("sha256", "-")),
        ]
        for a in found
    ]
    print_table(["key", "kind", "size", "role", "sha256"], rows)


@artifacts.command()
@click.argument("key")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="File to write. [default: the key's last part]"
)
def get(key: str, output: Path | None) -> None:
    """Fetch an artifact by its key and check its hash."""
    settings = load_settings()
    target = output or Path(Path(key).name)
    known = open_store(settings).database.artifacts.find_one({"key": key}, {"sha256": 1})
    if known is None:
        raise CommandError(
            f"there is no artifact {key!r}; `pod-worker artifacts list RUN` shows the keys", ExitCode.NOT_FOUND
        )
    token = revealed(settings.control_plane_token)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    partial = target.with_name(f".{target.name}.part")
    digest = hashlib.sha256()
    with requests.get(
        f"{settings.control_plane_url}/api/artifacts/{key}", headers=headers, stream=True, timeout=60
    ) as answer:
        if not answer.ok:
            raise CommandError(
                f"{answer.status_code}: {answer.text[:200]}",
                ExitCode.NOT_FOUND if answer.status_code == 404 else ExitCode.FAILED,
            )
        with open(partial, "wb") as file:
            for chunk in answer.iter_content(1024 * 1024):
                digest.update(chunk)
                file.write(chunk)
    if known.get("sha256") and digest.hexdigest() != known["sha256"]:
        partial.unlink()
        raise CommandError("what arrived does not have the hash that was registered; nothing was written")
    os.replace(partial, target)
    say(f"wrote {target} ({size(target.stat().st_size)}, sha256 {digest.hexdigest()[:12]}… checked)")

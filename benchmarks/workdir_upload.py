"""How long the submit of a working directory takes: at first, and unchanged.

2 000 files with 50 MB in all on a local stack. `pod-worker run --detach` is measured as a whole; beside it stand
its parts in this process, and `rclone copy` of the same tree to the same object store.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import print_figures
from pod_worker.cli.stack.up import LocalStack
from pod_worker.content.hash_cache import SETTLED_NS
from pod_worker.content.tree import scan
from pod_worker.content.upload_client import ContentClient
from pod_worker.local.binaries import find_rclone

REPEATS = 5


def measure(files: int, megabytes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pod_worker_bench_") as name:
        root = Path(name)
        tree = write_tree(root / "job", files, megabytes)
        other = write_tree(root / "parts", files, megabytes, seed=2)
        local = LocalStack(root / "stack", threading.Event())
        local.start()
        try:
            time.sleep(SETTLED_NS / 1e9)  # the hashes of files that are newer are not remembered
            return {
                "files": files,
                "bytes": sum(path.stat().st_size for path in tree.rglob("*") if path.is_file()),
                **_submits(local, tree, root / "cache"),
                **_parts(local, other, root / "cache"),
                **_rclone(local, tree),
                "load": round(os.getloadavg()[0], 1),
            }
        finally:
            local.stack.stop()


def write_tree(folder: Path, files: int, megabytes: int, seed: int = 1) -> Path:
    """Files of random bytes in folders of fifty."""
    rng = random.Random(seed)
    for number in range(files):
        path = folder / f"part-{number // 50:03d}" / f"file-{number:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(megabytes * 1_000_000 // files))
    return folder


def _submits(local: LocalStack, tree: Path, cache: Path) -> dict[str, float]:
    env = local.env(XDG_CACHE_HOME=str(cache))
    program = str(Path(sys.executable).with_name("pod-worker"))
    argv = [program, "run", "--detach", "--workdir", str(tree), "--", "true"]
    first = _seconds(argv, env)
    return {
        "submit_first_s": first,
        "submit_unchanged_s": min(_seconds(argv, env) for _ in range(REPEATS)),
        "submit_without_workdir_s": min(
            _seconds([program, "run", "--detach", "--no-workdir", "--", "true"], env) for _ in range(REPEATS)
        ),
    }


def _parts(local: LocalStack, tree: Path, cache: Path) -> dict[str, float]:
    client = ContentClient(local.url, local.token)
    began = time.perf_counter()
    scanned = scan(tree, cache=cache / "parts")
    hashed = time.perf_counter()
    client.upload(scanned)
    uploaded = time.perf_counter()
    client.upload(scan(tree, cache=cache / "parts"))
    return {
        "scan_s": round(hashed - began, 3),
        "upload_s": round(uploaded - hashed, 3),
        "scan_and_upload_unchanged_s": round(time.perf_counter() - uploaded, 3),
    }


def _rclone(local: LocalStack, tree: Path) -> dict[str, float]:
    s3 = local.stack.s3
    env = {
        **os.environ,
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_S3_PROVIDER": "Other",
        "RCLONE_S3_ENDPOINT": s3.url,
        "RCLONE_S3_ACCESS_KEY_ID": s3.access_key,
        "RCLONE_S3_SECRET_ACCESS_KEY": s3.secret_key,
    }
    argv = [str(find_rclone()), "copy", str(tree), f":s3:{s3.bucket}/rclone"]
    first = _seconds(argv, env)
    return {"rclone_first_s": first, "rclone_unchanged_s": min(_seconds(argv, env) for _ in range(REPEATS))}


def _seconds(argv: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return round(time.perf_counter() - began, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.files, arguments.megabytes)
    print_figures(found, as_json=arguments.json)


if __name__ == "__main__":
    main()

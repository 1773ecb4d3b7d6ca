"""What a snapshot of a checkpoint folder costs when 1 % of it changed.

One file of random bytes; ten places of it change. CPU time is that of the snapshot's process, without the upload:
the artifact store is a folder. Beside it stand sha256sum and cp of the same file.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import print_figures
from pod_worker.snapshots.snapshot_store import SnapshotStore
from tests.training.context import FolderContext

MIB = 1 << 20
PLACES = 10


def measure(mib: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pod_worker_bench_") as name:
        context = FolderContext(Path(name), {})
        folder = context.work_dir / "checkpoints"
        store = SnapshotStore(context, folder, 300, 3)
        store.restore()
        path = folder / "weights"
        with open(path, "wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))
        first_cpu, _ = _taken(store, "first")
        before = len(context.artifacts.published)
        _change(path, mib)
        cpu, wall = _taken(store, "changed")
        uploaded = sum(each.bytes for each in context.artifacts.published[before:])
        size = path.stat().st_size
        return {
            "bytes": size,
            "uploaded_share": round(uploaded / size, 4),
            "cpu_s_per_300_mb": round(cpu / (size / 300e6), 3),
            "wall_s": round(wall, 2),
            "first_cpu_s": round(first_cpu, 2),
            "sha256sum_cpu_s_per_300_mb": round(_child_cpu("sha256sum", str(path)) / (size / 300e6), 3),
            "cp_cpu_s_per_300_mb": round(_child_cpu("cp", str(path), f"{name}/copy") / (size / 300e6), 3),
            "load": round(os.getloadavg()[0], 1),
        }


def _taken(store: SnapshotStore, reason: str) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    if not store.snapshot_now(reason):
        raise SystemExit(f"the {reason} snapshot was not saved")
    return time.process_time() - cpu, time.perf_counter() - wall


def _change(path: Path, mib: int) -> None:
    """Write 1 % of the file again, in places that are not aligned with the chunks."""
    size = mib * MIB
    with open(path, "r+b") as file:
        for number in range(PLACES):
            file.seek(number * (size // PLACES) + 12_345)
            file.write(os.urandom(size // 100 // PLACES))


def _child_cpu(*argv: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.mib)
    print_figures(found, as_json=arguments.json)


if __name__ == "__main__":
    main()

"""Real sizes in constant memory: 130 MiB in parts of the real size, up, verified, and down again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MIB = 1024 * 1024

# One process does all three, for each is bounded by the peak of the whole.
WHOLE_TRIP = """
import json, random, sys
from pathlib import Path
from pod_worker.artifacts.ledger import UploadLedger
from pod_worker.artifacts.object_store import ObjectStore
from pod_worker.artifacts.publisher import Publisher
from pod_worker.core.lease import Fence
from pod_worker.core.stage import ArtifactKind

given = json.loads(sys.argv[1])

class Emit:
    def emit(self, payload):
        return "id"

class Stop:
    def check(self):
        pass
    def is_set(self):
        return False

def peak():
    # Not ru_maxrss: that of the process which started this one is in it.
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

publisher = Publisher(given["url"], given["token"], Fence("run1", 2, "token2"), UploadLedger(Path(given["ledger"])),
                      Emit(), Stop(), random.Random(0))
small = Path(given["path"] + ".small")
small.write_bytes(b"x")
publisher.publish(small, ArtifactKind.DATA)  # the libraries' own memory
store = ObjectStore(*given["store"])
store.list("")
before = peak()
made = publisher.publish(Path(given["path"]), ArtifactKind.ADAPTER)
publisher.fetch(made.key, Path(given["path"] + ".back"), made.sha256)
digest = store.sha256(made.key)
print(json.dumps({"grown": peak() - before, "sha256": made.sha256, "read": digest.sha256, "bytes": digest.bytes}))
"""


def test_a_large_file_takes_no_more_memory_than_a_small_one(
    planes: Any, fence: Any, s3: Any, tmp_path: Path
) -> None:
    plane = planes()  # the real part size
    path = tmp_path / "adapter.safetensors"
    with path.open("wb") as file:
        file.truncate(130 * MIB)  # sparse: what it holds does not matter, how much does
        file.seek(70 * MIB)
        file.write(b"not only zeros")
    given = {
        "url": plane.url,
        "token": "control-plane-token",
        "ledger": str(tmp_path / "ledger"),
        "path": str(path),
        "store": [s3.endpoint, s3.access_key, s3.secret_key, s3.bucket],
    }
    done = subprocess.run([sys.executable, "-c", WHOLE_TRIP, json.dumps(given)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["grown"] < 24 * MIB
    assert found["bytes"] == 130 * MIB
    assert found["read"] == found["sha256"]
    numbers = {part["number"] for body in plane.asked("/finalize") for part in body["parts"] or []}
    assert numbers == {1, 2, 3}

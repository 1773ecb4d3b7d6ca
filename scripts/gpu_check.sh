#!/usr/bin/env bash
# Check that this machine trains: one table in at most 8 minutes, nothing downloaded.
#
#   bash scripts/gpu_check.sh [--cpu] [--only TEXT] [--deadline SECONDS] [--json] [--help]
#
# Exit codes: 0 all rows ok or skipped, 1 a row failed, 2 no GPU or not installed, 3 some rows had no time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${POD_WORKER_PYTHON:-}
if [ -z "$python" ]; then
  if [ -x .venv/bin/python ]; then python=.venv/bin/python; else python=$(command -v python3 || true); fi
fi
if [ -z "$python" ] || ! "$python" -c 'import pod_worker' 2>/dev/null; then
  echo "gpu_check: pod_worker is not installed here. Run: bash scripts/init_runpod.sh" >&2
  exit 2
fi
exec "$python" -m benchmarks.gpu_check "$@"

#!/usr/bin/env bash
# Start a worker in the foreground: ./start_worker.sh [--mode experiment|ideation|hybrid|training|all] [worker options]
# Finds the environment that init_runpod.sh made, leaves .env to pod_worker.config, prints no secret.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$here"

python=${POD_WORKER_PYTHON:-}
if [ -z "$python" ]; then
  if [ -x .venv/bin/python ]; then python=.venv/bin/python; else python=$(command -v python3 || true); fi
fi
if [ -z "$python" ] || ! "$python" -c 'import pod_worker' 2>/dev/null; then
  echo "start_worker: pod_worker is not installed here. Run: bash scripts/init_runpod.sh" >&2
  exit 2
fi
# exec: signals of the pod (SIGTERM before it goes away) must reach the worker, not this shell.
exec "$python" -m pod_worker worker "$@"

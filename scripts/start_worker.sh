#!/usr/bin/env bash
# Start a worker in the foreground: ./start_worker.sh [--mode experiment|ideation|hybrid|training|all] [worker options]
# Finds the environment that init_runpod.sh made, leaves .env to pod_worker.config, prints no secret.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$here"
# The user of runs cannot write byte code beside the packages: the worker's own imports write it.
unset PYTHONDONTWRITEBYTECODE

python=${POD_WORKER_PYTHON:-}
if [ -z "$python" ]; then
  if [ -x .venv/bin/python ]; then python=.venv/bin/python; else python=$(command -v python3 || true); fi
fi
if [ -z "$python" ] || ! "$python" -c 'import pod_worker' 2>/dev/null; then
  echo "start_worker: pod_worker is not installed here. Run: bash scripts/init_runpod.sh" >&2
  exit 2
fi
# With a limit, or for --help, one process is all that is wanted, and its exit code is the answer.
for word in "$@"; do
  case $word in
    --max-runs* | --run-id* | --exit-when-idle* | --help) exec "$python" -m pod_worker worker "$@" ;;
  esac
done

# Otherwise a worker that died is started again, or the pod would idle and bill. Signals of the pod (SIGTERM before
# it goes away) are passed on; the second one makes the worker give up its run at once.
worker=""
stopping=""
forward() {
  stopping=yes
  if [ -n "$worker" ]; then kill -TERM "$worker" 2>/dev/null || true; fi
}
trap forward TERM INT HUP
first=${RESTART_SECONDS:-2} longest=60
pause=$first
while :; do
  began=$SECONDS
  "$python" -m pod_worker worker "$@" &
  worker=$!
  code=0
  wait "$worker" || code=$?
  while kill -0 "$worker" 2>/dev/null; do # a signal ended the wait, not the worker
    code=0
    wait "$worker" || code=$?
  done
  worker=""
  # 0 stopped, 143 stopped by a signal, 2 wrong usage or settings: starting again would change nothing.
  if [ -n "$stopping" ] || [ "$code" = 0 ] || [ "$code" = 143 ] || [ "$code" = 2 ]; then exit "$code"; fi
  if [ $((SECONDS - began)) -ge 300 ]; then pause=$first; fi
  echo "start_worker: the worker ended with code $code; starting it again in $pause s" >&2
  sleep "$pause" &
  wait $! || true
  if [ -n "$stopping" ]; then exit "$code"; fi
  pause=$((pause * 2 < longest ? pause * 2 : longest))
done

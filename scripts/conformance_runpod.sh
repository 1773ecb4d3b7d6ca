#!/usr/bin/env bash
# Real RunPod clients against the fake: runpod 1.12.0 and 2.0.0rc2 (PyPI), @runpod/mcp-server 3.4.0 and 4.0.0 (npm),
# and our own. Prints the table of 25 checks. Installs the clients once, into .tools/conformance or $CONFORMANCE_CACHE.
# Arguments go to tests/conformance/table.py: --cache DIR, --strict, --only CLIENT …
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" tests/conformance/table.py "$@"

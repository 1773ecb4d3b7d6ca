#!/usr/bin/env bash
# Real RunPod clients against the fake: runpod 1.12.0 and 2.0.0rc2 (PyPI), @runpod/mcp-server 3.4.0 and 4.0.0 (npm),
# and this project's own. Prints the table of 25 checks. Installs the clients once, into .tools/conformance or
# $CONFORMANCE_CACHE. A check that cannot run here is skipped; with CONFORMANCE_STRICT=1 it fails.
# Arguments go to pytest: -k CLIENT …
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" -m pytest tests/conformance -p no:cacheprovider "$@"

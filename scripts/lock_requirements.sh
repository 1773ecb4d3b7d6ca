#!/usr/bin/env bash
# Writes requirements/*.lock from pyproject.toml: names, versions and hashes, and no address of a package index.
#
#   bash scripts/lock_requirements.sh [--upgrade]
#
# Without --upgrade a locked version stays while pyproject.toml still allows it. One lock serves Python 3.11 and
# later on every platform. core.lock holds the dependencies of the package, and each other lock adds one extra to
# it, so a package of core.lock appears in no other lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=${UV:-.venv/bin/uv}

# lock OUTPUT INPUT...: OUTPUT keeps its versions, because uv reads an existing file as its preference.
lock() {
  local output=requirements/$1.lock
  shift
  "$uv" pip compile --quiet --config-file requirements/uv.toml --universal --python-version 3.11 \
    --generate-hashes --no-annotate --no-header --no-emit-index-url \
    --constraint requirements/torch.txt --no-emit-package torch --output-file "$output" "$@"
  printf 'lock: %s: %s packages\n' "$output" "$(grep -c '^[a-z]' "$output")"
}

upgrade=("$@")
lock core pyproject.toml ${upgrade[@]+"${upgrade[@]}"}
in_core=()
for name in $(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' requirements/core.lock); do
  in_core+=(--no-emit-package "$name")
done
lock installer requirements/installer.in ${upgrade[@]+"${upgrade[@]}"}
constraints=(--constraint requirements/core.lock --constraint requirements/installer.lock)
for extra in local train research dev; do
  lock "$extra" pyproject.toml --extra "$extra" "${constraints[@]}" "${in_core[@]}" ${upgrade[@]+"${upgrade[@]}"}
  constraints+=(--constraint "requirements/$extra.lock")
done

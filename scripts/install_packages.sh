#!/usr/bin/env bash
# Installs pod_worker and the named extras into .venv, from the hashed locks in requirements/.
#
#   bash scripts/install_packages.sh [local] [train] [research] [dev]
#
# uv installs the locks in seconds, but ignores pip.conf: where uv fails, pip installs them. pip installs torch,
# because only pip reads the machine's package indexes. Environment variables:
#   TORCH_CPU_INDEX   package index with CPU builds of torch; tried first where no NVIDIA GPU is found
#   INSTALL_UNLOCKED  1: the newest versions that pyproject.toml allows, without hashes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python
uv=.venv/bin/uv
# As pip does: a company's own certificates are in the system's store, not in the one that uv brings.
export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
extras=$*

say() { printf 'install: %s\n' "$*"; }
wants() { case " $extras " in *" $1 "*) true ;; *) false ;; esac; }
has_gpu() { command -v nvidia-smi > /dev/null 2>&1 && nvidia-smi -L > /dev/null 2>&1; }

install_lock() {
  local options=(--no-deps --require-hashes -r "requirements/$1.lock")
  say "$1: $(grep -c '^[a-z]' "requirements/$1.lock") packages at most$(lock_note "$1")"
  if [ -x "$uv" ]; then
    "$uv" pip install --quiet --python "$python" "${options[@]}" && return
    say "uv failed; installing with pip, which reads pip.conf"
  fi
  "$python" -m pip install --quiet --no-compile "${options[@]}"
}

lock_note() {
  case $1 in
    local) printf ', among them a MongoDB server and rclone (70 MB)' ;;
    train) printf ', without torch (90 MB)' ;;
    research) printf ' (75 MB)' ;;
  esac
}

# The locks hold no torch: the CPU build, the CUDA build and a local wheel of one version have different hashes.
install_torch() {
  local pin version
  pin=$(grep '^torch==' requirements/torch.txt)
  version=${pin#torch==}
  if has_torch "$version" || install_local_torch "$pin"; then return; fi
  if [ -n "${TORCH_CPU_INDEX:-}" ] && ! has_gpu; then
    say "torch: no NVIDIA GPU found; trying the CPU build of $version (200 MB)"
    "$python" -m pip install --no-compile --no-deps --index-url "$TORCH_CPU_INDEX" "$pin" && return
    say "torch: TORCH_CPU_INDEX did not deliver $version; trying the default package index"
  fi
  if [ "$(uname -s)" = Linux ] && ! "$python" -m pip index versions torch 2> /dev/null | grep -q " $version+cpu"; then
    say "torch: $version is a CUDA build here, a download of about 2.7 GB"
    has_gpu || say "torch: the CPU build (200 MB) is enough without an NVIDIA GPU; CONTRIBUTING.md says how to get it"
  fi
  "$python" -m pip install --no-compile "$pin"
}

has_torch() {
  local installed
  installed=$("$python" -c 'from importlib.metadata import version; print(version("torch"))' 2> /dev/null) || return 1
  case $installed in "$1" | "$1"+*) return ;; esac
  grep -qs '^include-system-site-packages = true' .venv/pyvenv.cfg || return 1
  if ! is_at_least "$installed" "$(minimal_torch)"; then
    say "torch: the image's own $installed is older than $(minimal_torch), which transformers needs"
    return 1
  fi
  say "torch: the image's own $installed stays, because it is built for the image's driver"
}

minimal_torch() { sed -n 's/^ *"torch>=\([0-9.]*\)".*/\1/p' pyproject.toml; }

is_at_least() { [ "$(printf '%s\n%s\n' "$2" "${1%%+*}" | sort -V | head -n 1)" = "$2" ]; }

# A wheel in a folder that pip's settings name (find-links); uv unpacks it in a third of pip's time.
install_local_torch() {
  local folder
  [ -x "$uv" ] || return 1
  for folder in $("$python" -m pip config list | sed -n "s/^[^=]*find-links='\(.*\)'$/\1/p" | sort -u); do
    if "$uv" pip install --quiet --python "$python" --no-deps --no-index --find-links "$folder" "$1" 2> /dev/null; then
      say "torch: installed from the local folder $folder"
      return
    fi
  done
  return 1
}

install_unlocked() {
  say "without the locks: the newest versions that pyproject.toml allows"
  if wants train; then install_torch; fi
  "$python" -m pip install --no-compile -e ".${extras:+[${extras// /,}]}"
}

if [ "${INSTALL_UNLOCKED:-}" = 1 ]; then
  install_unlocked
  exit
fi
"$python" -m pip install --quiet --no-compile --require-hashes -r requirements/installer.lock
for lock in core $extras; do install_lock "$lock"; done
if wants train; then install_torch; fi
if [ -x "$uv" ]; then
  "$uv" pip install --quiet --python "$python" --no-deps --no-build-isolation -e .
else
  "$python" -m pip install --quiet --no-compile --no-deps --no-build-isolation -e .
fi

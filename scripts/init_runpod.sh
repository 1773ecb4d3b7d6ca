#!/usr/bin/env bash
# From a blank pod to a running worker. Run it again whenever you like: finished steps are skipped.
#
#   bash scripts/init_runpod.sh [--mode M] [--no-start] [--skip-gpu] [--skip-system] [--extras LIST] [worker options]
#
# --extras: what to install beside the core, "train research" unless given ("train" for --mode training); "" is enough
# for synthetic runs. Research runs also need LaTeX, which is installed with the system packages.
# Steps: 1 settings and GPU are there  2 system packages  3 virtual environment  4 pod_worker, its packages and torch
#        5 settings are valid  6 GPU computes  7 a training step  8 worker
# What costs no download is checked first.
# Prints what it does and never a secret. State: .venv/.init/<step>.done; delete one to repeat that step.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$here"
# The user of runs cannot write byte code beside the packages: the worker's own imports write it.
unset PYTHONDONTWRITEBYTECODE
start=yes
skip_gpu=${POD_WORKER_SKIP_GPU:-}
skip_system=
extras=auto
worker_args=()
while [ $# -gt 0 ]; do
  case $1 in
    --no-start) start=no ;;
    --skip-gpu) skip_gpu=1 ;;
    --skip-system) skip_system=1 ;;
    --extras) extras=$2; shift ;;
    -h | --help) sed -n '2,11p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) worker_args+=("$1") ;;
  esac
  shift
done

if [ "$extras" = auto ]; then
  case " ${worker_args[*]:-} ${WORKER_MODE:+--mode $WORKER_MODE} " in
    *" --mode training "*) extras=train ;;
    *) extras="train research" ;;
  esac
fi
wants() { case " ${extras//,/ } " in *" $1 "*) true ;; *) false ;; esac; }

say() { printf 'init: %s\n' "$*"; }
fail() { printf 'init: error: %s\n' "$*" >&2; exit 1; }
marks=.venv/.init

# step NAME FINGERPRINT COMMAND…: run once per fingerprint; a changed input runs it again.
step() {
  local name=$1 fingerprint=$2
  shift 2
  if [ "$(cat "$marks/$name.done" 2>/dev/null || true)" = "$fingerprint" ]; then
    say "$name: done before, skipped"
    return
  fi
  say "$name: started"
  "$@" || fail "$name failed; fix the cause above and run this script again, it resumes here"
  mkdir -p "$marks"
  printf '%s' "$fingerprint" > "$marks/$name.done"
  say "$name: done"
}

has_gpu() { command -v nvidia-smi > /dev/null 2>&1 && nvidia-smi -L > /dev/null 2>&1; }

install_system_packages() {
  command -v apt-get > /dev/null 2>&1 || { say "no apt-get here: nothing installed"; return 0; }
  local missing=()
  for each in git openssh-client ca-certificates; do
    dpkg -s "$each" > /dev/null 2>&1 || missing+=("$each")
  done
  python3 -c 'import ensurepip' 2> /dev/null || missing+=(python3-venv)
  if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
  fi
}

# Without LaTeX a pod still trains; an experiment refuses to start there before it has cost anything.
install_latex() {
  bash scripts/install_latex.sh || say "warning: no LaTeX here, so this pod cannot execute experiments"
}

check_python() {
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null ||
    fail "Python 3.11 or later is needed, found $(python3 -V 2>&1). Use another image (RUNPOD_WORKER_IMAGE)"
}

# Only whether the name is there: pod_worker.config reads .env by its own rule once it is installed (check_settings).
require_settings() {
  [ -n "${MONGODB_URL:-}${MONGODB_URL_FILE:-}" ] && return
  grep -aqs 'M.\?O.\?N.\?G.\?O.\?D.\?B.\?_.\?U.\?R.\?L' .env && return  # in UTF-16 too, which config names
  printf 'init: error: %s\n' "MONGODB_URL is not set. Export it or put it into $here/.env (see README.md)" >&2
  exit 2
}

require_gpu() {
  if [ -n "$skip_gpu" ]; then say "GPU check: skipped on request"; return; fi
  has_gpu || fail "no GPU found (nvidia-smi). Rent a pod with one, or pass --skip-gpu to work without"
  nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
}

make_environment() {
  # The image's own torch is built for its driver: an environment that sees it need not download another.
  if python3 -c 'import torch' 2> /dev/null; then
    python3 -m venv --system-site-packages .venv
  else
    python3 -m venv .venv
  fi
}

# The locks, and torch for this machine: see the script. TORCH_CPU_INDEX applies where no GPU is found.
install_package() { bash scripts/install_packages.sh ${extras//,/ }; }

check_settings() {
  # Says which settings are there, not what they are.
  .venv/bin/python - <<'PY'
import sys
from pod_worker.config import ConfigurationError, load_with_origins
try:
    settings, origins = load_with_origins()
    settings.require_mongodb_url()
except ConfigurationError as error:
    sys.exit(f"init: error: {error}")
for each in origins:
    if each.source != "default":
        print(f"init: {each.name} from {each.source}")
PY
}

# A run's user must be able to enter the folders of this program and of its Python (docs/child_user.md).
check_run_user() {
  .venv/bin/python - <<'PY'
from pod_worker.cli.composition import load_settings
from pod_worker.cli.diagnostics.doctor_checks import run_user
found = run_user(load_settings())
print(f"init: user of runs: {'' if found.status == 'ok' else 'warning: '}{found.text}")
PY
}

check_gpu() {
  .venv/bin/python -c "import torch; x = torch.ones(1024, device='cuda'); assert float((x + x).sum()) == 2048.0; print('init: CUDA computes on', torch.cuda.get_device_name(0))"
}

# Importing a torch that transformers cannot use succeeds; one training step does not. CPU where the GPU is skipped.
check_training() {
  say "training: one step of a tiny model (about 10 s)"
  .venv/bin/python -W ignore -m pod_worker.training.environment_check ${skip_gpu:+cpu} ||
    fail "this pod cannot train; see the cause above. --extras '' installs without training"
}

say "pod ${RUNPOD_POD_ID:-$(hostname)}, folder $here"
check_python
if [ "$start" = yes ]; then require_settings; fi
require_gpu
mkdir -p .venv
if [ -n "$skip_system" ]; then say "system packages: skipped on request"; else install_system_packages; fi
if [ -z "$skip_system" ] && wants research; then install_latex; fi
step environment "$(python3 -V 2>&1)" make_environment
gpu=$(has_gpu && echo yes || echo no)
step package "$extras gpu=$gpu $(cat pyproject.toml requirements/* | cksum)" install_package
if [ "$start" = yes ]; then check_settings || exit 2; fi
check_run_user || fail "the settings are not valid; see the cause above"
if wants train; then
  if [ -z "$skip_gpu" ]; then check_gpu || fail "the GPU does not compute; terminate this pod and rent another"; fi
  check_training
fi
if [ "$start" = no ]; then
  say "ready. Start the worker with: bash scripts/start_worker.sh"
  exit 0
fi
say "starting the worker (Ctrl-C stops it; bash scripts/start_worker.sh starts it again)"
exec bash scripts/start_worker.sh ${worker_args[@]+"${worker_args[@]}"}

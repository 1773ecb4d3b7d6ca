"""The bash scripts that set up a pod and start its worker.

Scripts are sent over stdin and contain no secret: they read the pod's environment from its first process. Checks
(mount, Python, GPU) run every time; actions run once per pod and leave a marker named by the hash of their
script.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from dataclasses import dataclass

ALREADY_DONE = "pod_worker: already done"
"""What a step prints when its marker exists."""


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    script: str
    hint: str
    """What to do when it fails."""
    timeout_seconds: float = 60.0
    once: bool = False
    needs_gpu: bool = False


@dataclass(frozen=True, slots=True)
class BootstrapPlan:
    """What a pod must have before a worker starts."""

    mount_path: str = "/workspace"
    code_dir: str = "/opt/pod_worker"
    """On the container's own disk: a checkout shared by many pods on one volume has bricked fleets before."""
    code_url: str | None = None
    """A git repository to clone where `code_dir` is not there yet."""
    code_ref: str | None = None
    code_archive: bytes | None = None
    """Or the code itself, as a .tar.gz."""
    gpu_count: int = 1
    min_free_gb: float = 2.0
    environ_file: str = "/proc/1/environ"
    """NUL-separated environment of the pod's first process; SSH sessions do not inherit it."""
    state_dir: str | None = None
    """Markers, lock, log and pid; default ~/.pod_worker on the pod."""


def steps(plan: BootstrapPlan) -> tuple[Step, ...]:
    return (_mount(plan), _python(), _nvidia_smi(plan), _code(plan), _init(plan), _cuda(plan))


def render_step(plan: BootstrapPlan, step: Step) -> str:
    """The whole script of a step, as bash reads it from stdin.

    In a function, so that it is parsed before it runs and its commands cannot eat the rest of it.
    """
    digest = hashlib.sha256(step.script.encode()).hexdigest()[:12]
    marker = f'"$state/steps/{step.name}-{digest}"'
    enter, leave = "", ""
    if step.once:
        enter = (
            'mkdir -p "$state/steps"\nexec 9> "$state/steps/lock"\nflock 9\n'
            f"if [ -e {marker} ]; then echo '{ALREADY_DONE}'; exit 0; fi"
        )
        leave = f"touch {marker}"
    return f"{prologue(plan)}\n{enter}\nstep() {{\nset -euo pipefail\n{step.script}\n}}\n" + (
        f"( step ) < /dev/null 9>&-\ncode=$?\n[ $code -eq 0 ] || exit $code\n{leave}\n"
    )


def prologue(plan: BootstrapPlan) -> str:
    """Export the pod's environment of its creation into the SSH session."""
    state = shlex.quote(plan.state_dir) if plan.state_dir else '"$HOME/.pod_worker"'
    return f"""state={state}
umask 077
if [ -r {shlex.quote(plan.environ_file)} ]; then
  while IFS= read -r -d '' pair; do
    case "$pair" in
      HOME=*|PWD=*|OLDPWD=*|SHLVL=*|TERM=*|_=*) ;;
      [A-Za-z_]*=*) export "$pair" ;;
    esac
  done < {shlex.quote(plan.environ_file)}
fi"""


def _mount(plan: BootstrapPlan) -> Step:
    path = shlex.quote(plan.mount_path)
    return Step(
        "mount",
        f"""ls -la {path}
probe={path}/.pod_worker_probe_$$
echo probe > "$probe" && rm "$probe"
free_kb=$(df -Pk {path} | awk 'NR == 2 {{ print $4 }}')
echo "free: $((free_kb / 1048576)) GB"
if [ "$free_kb" -lt {int(plan.min_free_gb * 1048576)} ]; then
  echo "less than {plan.min_free_gb:g} GB free" >&2
  exit 1
fi""",
        f"{plan.mount_path} must be there, writable and not full; check the volume and RUNPOD_VOLUME_MOUNT_PATH",
    )


def _python() -> Step:
    return Step(
        "python",
        """command -v python3
python3 -c 'import sys; print(sys.version); sys.exit(sys.version_info < (3, 11))'""",
        "the image needs Python 3.11 or later as python3; see RUNPOD_WORKER_IMAGE",
    )


def _nvidia_smi(plan: BootstrapPlan) -> Step:
    return Step(
        "nvidia-smi",
        f"""nvidia-smi
found=$(nvidia-smi -L | grep -c '^GPU ')
[ "$found" -ge {plan.gpu_count} ] || {{ echo "$found of {plan.gpu_count} GPUs are there" >&2; exit 1; }}""",
        "this host has no usable GPU (a restarted pod may get none); terminate the pod and launch another",
        needs_gpu=True,
    )


def _code(plan: BootstrapPlan) -> Step:
    where = shlex.quote(plan.code_dir)
    if plan.code_archive is not None:
        packed = base64.b64encode(plan.code_archive).decode()
        script = f"""mkdir -p {where}
base64 -d <<'POD_WORKER_ARCHIVE' | tar -xzf - -C {where}
{packed}
POD_WORKER_ARCHIVE
ls {where}"""
    elif plan.code_url is not None:
        ref = f"--branch {shlex.quote(plan.code_ref)} " if plan.code_ref else ""
        script = f"""[ -e {where}/pyproject.toml ] && exit 0
command -v git || {{ apt-get update -q && apt-get install -y -q --no-install-recommends git ca-certificates; }}
rm -rf {where}.new && git clone --depth 1 {ref}{shlex.quote(plan.code_url)} {where}.new
rm -rf {where} && mv {where}.new {where}"""
    else:
        script = f"ls {where}/pyproject.toml"
    hint = f"the code must be in {plan.code_dir}: bake it into the image, or give a git URL or an archive"
    return Step("code", script, hint, timeout_seconds=600.0, once=True)


def _init(plan: BootstrapPlan) -> Step:
    """init_runpod.sh keeps its own markers; the GPU is checked by the steps around it."""
    return Step(
        "init",
        f"""cd {shlex.quote(plan.code_dir)}
bash scripts/init_runpod.sh --no-start --skip-gpu""",
        "read the output above; run the bootstrap again, finished steps are skipped",
        timeout_seconds=1800.0,
    )


def _cuda(plan: BootstrapPlan) -> Step:
    """A GPU that nvidia-smi lists may still refuse memory.

    Causes are a wrong driver or memory of a previous tenant.
    """
    return Step(
        "cuda",
        f"""cd {shlex.quote(plan.code_dir)}
python=.venv/bin/python; [ -x $python ] || python=python3
$python - <<'PY'
import torch
for index in range({plan.gpu_count}):
    block = torch.ones(64 * 1024 * 1024, device=f"cuda:{{index}}")
    assert float(block[:1024].sum()) == 1024.0
    print(torch.cuda.get_device_name(index), torch.cuda.mem_get_info(index))
PY""",
        "CUDA cannot allocate on this host; terminate the pod and launch another",
        timeout_seconds=180.0,
        needs_gpu=True,
    )


def start_script(plan: BootstrapPlan, mode: str) -> str:
    """Bash that starts one worker in the background, or says that one runs.

    Fails where it dies at once.
    """
    code = shlex.quote(plan.code_dir)
    return f"""{prologue(plan)}
mkdir -p "$state"
exec 9> "$state/worker.lock"
flock 9
pid=$(cat "$state/worker.pid" 2> /dev/null)
if [ -n "$pid" ] && tr '\\0' ' ' < "/proc/$pid/cmdline" 2> /dev/null | grep -q worker; then
  echo "worker is running: pid $pid"
  exit 0
fi
cd {code} || exit 1
if [ -f scripts/start_worker.sh ]; then set -- bash scripts/start_worker.sh; else set -- pod-worker worker; fi
setsid nohup "$@" --mode {shlex.quote(mode)} >> "$state/worker.log" 2>&1 < /dev/null 9>&- &
pid=$!
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
  sleep 0.2
  kill -0 $pid 2> /dev/null && continue
  echo "the worker ended at once:" >&2
  tail -n 30 "$state/worker.log" >&2
  exit 1
done
echo $pid > "$state/worker.pid"
echo "worker started: pid $pid, log $state/worker.log"
"""

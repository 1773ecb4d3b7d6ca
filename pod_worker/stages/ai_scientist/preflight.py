"""Everything that can be known before AI-Scientist-v2 spends anything.

The original finds a missing pdflatex, library or key after the experiments are paid.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.model_access import ModelAccess
from pod_worker.stages.ai_scientist.checkout import LAUNCHER, Checkout, open_checkout
from pod_worker.stages.ai_scientist.isolation import isolation_prefix
from pod_worker.stages.ai_scientist.models import check_models, keys_for, model_uses
from pod_worker.stages.ai_scientist.params import AiScientistParams

IMPORT_SECONDS = 600  # torch and transformers from a cold network disk
LATEX_PROGRAMS = ("pdflatex", "bibtex")
LATEX_PACKAGES = "texlive-latex-recommended texlive-latex-extra texlive-fonts-recommended texlive-science"
# `--help` ends after the launcher's own imports. It imports psutil only at its end, after everything is paid.
_IMPORTS = f"""
import runpy, sys
import psutil
sys.path.insert(0, ".")
sys.argv = [{LAUNCHER!r}, "--help"]
runpy.run_path({LAUNCHER!r}, run_name="__main__")
"""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What was found on this machine; enough to start the program."""

    params: AiScientistParams
    checkout: Checkout
    interpreter: Path
    prefix: tuple[str, ...]  # words before the command that isolate it
    keys: Mapping[str, str] = field(repr=False)  # variables with the keys of language models


def prepare(
    params: AiScientistParams, access: ModelAccess, isolate: Callable[[], tuple[str, ...]] = isolation_prefix
) -> LaunchPlan:
    """Raises RunError with cause and fix: INVALID_INPUT, ENVIRONMENT, LLM_AUTH."""
    checkout = open_checkout(params.checkout)
    uses = model_uses(params, checkout)
    check_models(uses, params, checkout, access)
    prefix = isolate()
    if params.wants_paper:
        check_latex()
    return LaunchPlan(params, checkout, find_interpreter(params, checkout), prefix, keys_for(uses, access))


def check_latex(path: str | None = None) -> None:
    """`path` replaces PATH."""
    missing = [name for name in LATEX_PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        raise RunError(
            FailureCode.ENVIRONMENT,
            f"the paper needs {' and '.join(missing)}, which this machine does not have. "
            f"Fix: apt-get install --no-install-recommends {LATEX_PACKAGES}, or set skip_writeup",
        )


def find_interpreter(params: AiScientistParams, checkout: Checkout) -> Path:
    own = checkout.folder / ".venv" / "bin" / "python"
    named = params.python or (str(own) if os.access(own, os.X_OK) else sys.executable)
    found = shutil.which(Path(named).expanduser())
    if found is None:
        raise RunError(
            FailureCode.ENVIRONMENT,
            f"python: there is no program {named} on this machine. Fix: give the interpreter that has the "
            "requirements of AI-Scientist-v2",
        )
    return Path(os.path.abspath(found))  # a venv's link to its interpreter is not followed


def check_imports(plan: LaunchPlan, program: Path, env: Mapping[str, str]) -> None:
    """Import in the copy `program` what the launcher will.

    Raises RunError(ENVIRONMENT).
    """
    command = [str(plan.interpreter), "-c", _IMPORTS]
    try:
        end = subprocess.run(
            command, cwd=program, env=dict(env), capture_output=True, timeout=IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        reason = f"the imports took longer than {IMPORT_SECONDS} s"
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        if end.returncode == 0:
            return
        reason = _last_line(end.stderr) or f"exit code {end.returncode}"
    raise RunError(
        FailureCode.ENVIRONMENT,
        f"{plan.interpreter} cannot start AI-Scientist-v2: {reason}. Fix: {plan.interpreter} -m pip install torch "
        f"psutil -r {plan.checkout.folder / 'requirements.txt'}, or name another interpreter as `python`",
    )


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""

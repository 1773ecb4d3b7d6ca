"""Which variables of the worker's environment a run is given: a list, and nothing that sounds like a secret."""

from __future__ import annotations

import pytest

from pod_worker.config import SECRETS
from pod_worker.worker.child_environment import child_environment

FOREIGN = (
    "DATABASE_URL MONGO_URI REDIS_URL GITHUB_PAT DB_PASS SSH_AUTH_SOCK AWS_SESSION_TOKEN aws_secret_access_key "
    "GITHUB_TOKEN PGPASSWORD WANDB_API_KEY SSH_KEY SENTRY_DSN NETRC KUBECONFIG DOCKER_AUTH_CONFIG MY_COMPANY_THING "
    "HF_API_KEY TORCH_SECRET PYTHON_KEYRING_BACKEND PIP_INDEX_URL RUNPOD_API_KEY RUNPOD_SECRET_x ENCRYPTION_KEY"
)
WANTED = (
    "PATH HOME LANG LC_ALL TZ TMPDIR LD_LIBRARY_PATH CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES NCCL_DEBUG HF_HOME "
    "HF_HUB_OFFLINE TORCH_HOME PYTORCH_CUDA_ALLOC_CONF TOKENIZERS_PARALLELISM OMP_NUM_THREADS XDG_CACHE_HOME "
    "PYTHONPATH TRITON_CACHE_DIR SSL_CERT_FILE RUNPOD_POD_ID HF_TOKEN https_proxy NO_PROXY"
)


@pytest.mark.parametrize("name", [*FOREIGN.split(), *(name.upper() for name in sorted(SECRETS))])
def test_a_variable_that_no_run_needs_is_withheld(name: str) -> None:
    assert child_environment({name: "x", f"{name}_FILE": "x"}) == {}


def test_what_programs_of_a_run_need_is_passed() -> None:
    env = dict.fromkeys(WANTED.split(), "x")
    assert child_environment(env) == env


@pytest.mark.parametrize("url", ["http://ana:pw@proxy:3128", "ana:pw@proxy:3128", "http://[broken"])
def test_a_proxy_with_a_password_is_withheld(url: str) -> None:
    assert child_environment({"HTTPS_PROXY": url, "http_proxy": url}) == {}


def test_the_operator_may_pass_more_by_name() -> None:
    env = {"WANDB_API_KEY": "x", "WANDB_MODE": "y", "OTHER": "z"}
    assert child_environment(env, {"WANDB_API_KEY", "WANDB_MODE"}) == {"WANDB_API_KEY": "x", "WANDB_MODE": "y"}

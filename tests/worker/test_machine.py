"""What of the supervisor's environment a run may see."""

from __future__ import annotations

import pytest

from pod_worker.config import SECRETS
from pod_worker.worker.machine import Gpu as GpuCard
from pod_worker.worker.machine import child_environment, expected_gpus, gpu_names, is_secret, pod_id


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_every_secret_setting_is_withheld(name: str) -> None:
    assert is_secret(name.upper())
    assert is_secret(f"{name.upper()}_FILE"), "a process that knows the file can read it"


@pytest.mark.parametrize(
    "name",
    ["AWS_SESSION_TOKEN", "aws_secret_access_key", "GITHUB_TOKEN", "PGPASSWORD", "WANDB_API_KEY", "SSH_KEY"],
)
def test_what_sounds_like_a_secret_is_withheld(name: str) -> None:
    assert is_secret(name)


def test_a_run_gets_the_rest_of_the_environment() -> None:
    kept = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0", "HF_HOME": "x", "TOKENIZERS_PARALLELISM": "0"}
    given = kept | {"OPENAI_API_KEY": "sk-1", "MONGODB_URL": "mongodb://u:p@h", "MINIO_ENDPOINT": "h:9000"}
    assert child_environment(given) == kept
    assert child_environment({"HF_TOKEN": "hf_1"}) == {"HF_TOKEN": "hf_1"}, "gated models need it"


def test_a_gpu_answers_to_its_short_names() -> None:
    names = gpu_names([GpuCard("NVIDIA GeForce RTX 4090", 24.0)])
    assert names == ("GeForce RTX 4090", "NVIDIA GeForce RTX 4090", "RTX 4090")


def test_what_the_provider_says_of_the_pod() -> None:
    assert pod_id({"RUNPOD_POD_ID": "abc"}) == "abc"
    assert pod_id({}) != ""
    assert [expected_gpus({"RUNPOD_GPU_COUNT": text}) for text in ("2", "", "many")] == [2, 0, 0]

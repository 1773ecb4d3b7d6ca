"""The environment variables that a run's process is given: an allow-list.

A deny-list cannot know every secret of a machine (DATABASE_URL, GITHUB_PAT, SSH_AUTH_SOCK …). So only variables
that programs of a run need are passed: paths, locale, GPU, library settings, caches, proxies. A name that sounds
like a secret is withheld even where a pattern allows it. `extra` names pass in any case: the operator chose them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from pod_worker.core.credentials.secret import is_secret_name

_NAMES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "LANG", "LANGUAGE", "TMPDIR", "HOSTNAME",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SOURCE_DATE_EPOCH", "CC", "CXX",
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",  # trusted stages load gated models with them
    "RUNPOD_POD_ID", "RUNPOD_GPU_COUNT", "RUNPOD_DC_ID", "RUNPOD_POD_HOSTNAME", "SYNTHETIC_EVIDENCE",
})  # fmt: skip
_PREFIXES = (
    "LC_", "XDG_", "LD_", "PYTHON", "CUDA", "NVIDIA_", "NCCL_", "CUBLAS_", "CUDNN_", "ROCR_", "HIP_", "HSA_",
    "TORCH", "PYTORCH_", "TRITON_", "BNB_", "BITSANDBYTES_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_",
    "DATASETS_", "ACCELERATE_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "VECLIB_",
    "MPLBACKEND", "MPLCONFIGDIR", "MALLOC_",
)  # fmt: skip
_PROXIES = frozenset({"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"})
_ALLOWED_SECRETS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})


def child_environment(env: Mapping[str, str], extra: Collection[str] = ()) -> dict[str, str]:
    """What a run may see of `env`."""
    return {name: value for name, value in env.items() if name in extra or is_allowed(name, value)}


def is_allowed(name: str, value: str) -> bool:
    if name.lower() in _PROXIES:
        return not _has_credentials(value)
    if name not in _ALLOWED_SECRETS and is_secret_name(name):
        return False
    return name in _NAMES or name.startswith(_PREFIXES)


def _has_credentials(url: str) -> bool:
    try:
        return "@" in urlsplit(url if "://" in url else f"//{url}").netloc
    except ValueError:
        return True

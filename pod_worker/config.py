"""Settings: read once, by the composition roots.

From the environment, `.env`, and `*_FILE` secrets.

An unknown `POD_WORKER_*` name is an error that names the nearest known one. The origin of each value can be
shown; the value of a secret cannot.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, field

from pod_worker.core.credentials.secret import (
    InvalidSecretError,
    Secret,
    has_credentials,
    read_secret,
    secret_values,
)

PREFIX = "pod_worker_"


@dataclass(frozen=True, slots=True)
class SecretRule:
    min_length: int
    is_header: bool = True  # sent in an HTTP header


# One rule for every setting of the type Secret.
SECRETS: dict[str, SecretRule] = {
    "mongodb_url": SecretRule(1, is_header=False),
    "control_plane_token": SecretRule(16),
    "encryption_key": SecretRule(32, is_header=False),  # its public key is known: it must not be guessable
    "minio_access_key": SecretRule(3),  # the limits of MinIO
    "minio_secret_key": SecretRule(8),
    "runpod_api_key": SecretRule(8),
    "openai_api_key": SecretRule(8),
    "anthropic_api_key": SecretRule(8),
}
URLS = (
    "control_plane_url",
    "minio_endpoint",
    "minio_public_endpoint",
    "openai_base_url",
    "anthropic_base_url",
)
# Set for our own child processes and scripts; not settings.
INSTANCE_VARIABLE = "POD_WORKER_INSTANCE"
INTERNAL = {
    "pod_worker_attempt",
    "pod_worker_work_root",
    "pod_worker_command_fd",
    "pod_worker_uplink_fd",
    "pod_worker_sandbox_fd",
    "pod_worker_skip_gpu",
    "pod_worker_data",
    "pod_worker_python",
    INSTANCE_VARIABLE.lower(),
}

HOME_STATE = "~/.pod_worker"
ROOT_STATE = "/var/lib/pod-worker"

YEAR_SECONDS = 366 * 86_400
Seconds = Annotated[float, Meta(gt=0, le=YEAR_SECONDS)]
NonNegativeSeconds = Annotated[float, Meta(ge=0, le=YEAR_SECONDS)]


class ConfigurationError(Exception):
    """A setting is missing or wrong; the message names it and the fix."""


def default_state_folder() -> str:
    """Where a worker keeps spool and work folders unless settings say so.

    In the home folder. Root's home is closed in most images, and its runs have a user of their own: then
    POD_WORKER_DATA, else ROOT_STATE.
    """
    if os.geteuid() != 0:
        return HOME_STATE
    try:
        home = Path(HOME_STATE).expanduser().parent
        is_open = all(folder.stat().st_mode & stat.S_IXOTH for folder in (home, *home.parents))
    except (OSError, RuntimeError):  # no home: the setting's own error names the fix
        return HOME_STATE
    return HOME_STATE if is_open else os.environ.get("POD_WORKER_DATA") or ROOT_STATE


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Names are the environment's in lower case; ours carry the prefix `pod_worker_`.

    msgspec rather than pydantic: the supervisor has 70 MB to live in and `--help` 0.3 s to answer.
    """

    mongodb_url: Secret | None = None
    control_plane_url: str = "http://127.0.0.1:8787"
    control_plane_token: Secret | None = None
    encryption_key: Secret | None = None  # of sealed secrets; the control plane alone needs it
    worker_mode: str = "all"
    minio_endpoint: str | None = None
    minio_public_endpoint: str | None = None
    minio_access_key: Secret | None = None
    minio_secret_key: Secret | None = None
    minio_bucket: str = "ai-scientist"
    minio_region: str = "us-east-1"
    runpod_api_key: Secret | None = None
    openai_api_key: Secret | None = None
    openai_base_url: str | None = None  # of any server that speaks the protocol: vLLM, llama.cpp, OpenRouter …
    anthropic_api_key: Secret | None = None
    anthropic_base_url: str | None = None

    pod_worker_lease_seconds: Annotated[float, Meta(ge=3, le=3600)] = 60
    pod_worker_lease_margin_seconds: Seconds | None = None
    pod_worker_renew_seconds: Seconds = 15
    pod_worker_poll_seconds: Seconds = 10
    pod_worker_change_stream: bool = True  # off where the database user may not watch; polls do the rest
    pod_worker_heartbeat_seconds: Seconds = 15
    pod_worker_rescue_seconds: Seconds = 15
    pod_worker_grace_seconds: NonNegativeSeconds = 30
    pod_worker_cancel_seconds: NonNegativeSeconds = 5
    pod_worker_kill_seconds: Seconds = 5
    pod_worker_flush_seconds: NonNegativeSeconds = 10
    pod_worker_batch_events: Annotated[int, Meta(ge=1, le=10_000)] = 50
    pod_worker_batch_seconds: Seconds = 1
    pod_worker_spool_dir: str = field(default_factory=lambda: f"{default_state_folder()}/spool")
    pod_worker_spool_max_mb: Annotated[int, Meta(ge=8, le=2**30)] = 1024
    pod_worker_work_dir: str = field(default_factory=lambda: f"{default_state_folder()}/work")
    pod_worker_kept_work_gb: Annotated[float, Meta(ge=0, le=1e9)] = 20  # of failed runs' folders, together
    pod_worker_min_disk_gb: Annotated[float, Meta(ge=0, le=1e9)] = 1
    pod_worker_required_gpus: Annotated[int, Meta(ge=0, le=1024)] | None = None
    pod_worker_region: str | None = None
    pod_worker_image: str | None = None
    pod_worker_child_user: str = "auto"  # of runs, where the worker is root; `none` keeps the worker's user
    pod_worker_child_env: str = ""  # names of further variables for runs, with commas between them
    pod_worker_sandbox_floor: str = "default"  # protections that model-written code needs; docs/sandbox.md
    pod_worker_rate_limit: Annotated[float, Meta(gt=0, le=1e9)] = 5000
    pod_worker_llm: Literal["openai", "anthropic", "scripted", "replay"] | None = None  # by the model's name
    pod_worker_llm_output: Literal["json_schema", "tools", "json_object", "text"] | None = None  # by the model
    pod_worker_llm_prices: str | None = None  # a JSON file that replaces the prices of the package
    pod_worker_llm_cassettes: str | None = None  # a folder of recorded answers, for POD_WORKER_LLM=replay

    @property
    def margin_seconds(self) -> float:
        """How long before the lease's end it is no longer trusted: a quarter, unless set."""
        given = self.pod_worker_lease_margin_seconds
        return given if given is not None else self.pod_worker_lease_seconds / 4

    @property
    def work_dir(self) -> Path:
        return Path(self.pod_worker_work_dir).expanduser().resolve()

    @property
    def spool_dir(self) -> Path:
        return Path(self.pod_worker_spool_dir).expanduser().resolve()

    def require_mongodb_url(self) -> str:
        """The URL with its password, for the driver."""
        if self.mongodb_url is None:
            raise ConfigurationError(
                "MONGODB_URL is not set. Export it or put it into .env, for example "
                "MONGODB_URL=mongodb://user:password@host:27017/ai_scientist. Or start a local stack with "
                "`pod-worker up`; when it runs in another folder, export POD_WORKER_DATA=DIR."
            )
        return self.mongodb_url.reveal()


def secret_settings() -> set[str]:
    """The names of the settings whose type is Secret."""
    return {each.name for each in msgspec.structs.fields(Settings) if Secret in get_args(each.type)}


@dataclass(frozen=True, slots=True)
class SettingOrigin:
    name: str
    source: str  # environment | .env | file PATH | default
    shown: str  # the value, or *** for a secret that is set


def load(env: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")) -> Settings:
    """Raises ConfigurationError that lists every problem at once."""
    return load_with_origins(env, env_file)[0]


def load_with_origins(
    env: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")
) -> tuple[Settings, list[SettingOrigin]]:
    given = _gather(os.environ if env is None else env, env_file)
    types = {each.name: each.type for each in msgspec.structs.fields(Settings)}
    values: dict[str, Any] = {}
    problems = [_unknown(name, list(types)) for name in given if name not in types]
    for name, (source, text) in given.items():
        if name in types:
            try:
                values[name] = _convert(name, text, types[name])
            except (InvalidSecretError, msgspec.ValidationError) as error:
                problems.append(f"{name.upper()}{_shown_source(source)} {_reason(error, name, text)}")
    if problems:
        raise ConfigurationError("; ".join(problems))
    settings = Settings(**values)
    _check_lease(settings)
    _check_sandbox_floor(settings)
    return settings, _origins(settings, given)


def _convert(name: str, text: str, kind: Any) -> Any:
    if rule := SECRETS.get(name):
        return read_secret(text, min_length=rule.min_length, is_header=rule.is_header)
    if name in URLS and has_credentials(text):
        raise InvalidSecretError("must not hold a user or a password: set the token or the keys instead")
    return msgspec.convert(text.strip(), kind, strict=False)


def _reason(error: Exception, name: str, text: str) -> str:
    """Cause, and the value unless it is a secret."""
    if isinstance(error, InvalidSecretError):
        return str(error)
    return f"is not valid: {str(error).lower()} (got {text[:80]!r})"


def _shown_source(source: str) -> str:
    return "" if source == "environment" else f" ({source})"


def known_secrets(env: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")) -> list[str]:
    """Every secret value that is set, valid or not.

    This must not appear in any output. Never raises.
    """
    try:
        sources = [read_dotenv(env_file), os.environ if env is None else env]
    except ConfigurationError:
        sources = [os.environ if env is None else env]
    found = []
    for name, value in ((name, value) for values in sources for name, value in values.items() if value.strip()):
        secret = name.lower().removesuffix("_file")
        if name.lower() == "mongodb_url" and not has_credentials(value):
            continue  # an address alone: messages that hide it cannot say where nothing answers
        if secret in SECRETS and name.lower() == secret:
            found.append(value)
        elif secret in SECRETS:
            with suppress(ConfigurationError):
                found.append(_secret_file(name, value))
    found += [value for values in sources for value in secret_values(values)]
    return list(dict.fromkeys(found))


def _check_lease(settings: Settings) -> None:
    renew, lease = settings.pod_worker_renew_seconds, settings.pod_worker_lease_seconds
    if renew * 2 > lease - settings.margin_seconds:
        raise ConfigurationError(
            f"POD_WORKER_RENEW_SECONDS ({renew:g}) must be at most half of the time that a lease is trusted "
            f"({lease - settings.margin_seconds:g} s of POD_WORKER_LEASE_SECONDS={lease:g}), or one lost renewal "
            "loses the run"
        )


def _check_sandbox_floor(settings: Settings) -> None:
    if settings.pod_worker_sandbox_floor == "default":
        return
    from pod_worker.sandbox.layers import read_floor

    try:
        read_floor(settings.pod_worker_sandbox_floor)
    except ValueError as error:
        raise ConfigurationError(f"POD_WORKER_SANDBOX_FLOOR: {error}") from None


def _gather(env: Mapping[str, str], env_file: Path | None) -> dict[str, tuple[str, str]]:
    """Lower-case name -> (where from, value).

    The environment wins over `.env`, a value over its `_FILE`.
    """
    gathered: dict[str, tuple[str, str]] = {}
    known = {each.name for each in msgspec.structs.fields(Settings)}
    for source, values in ((".env", read_dotenv(env_file)), ("environment", env)):
        for name, value in values.items():
            secret = name.lower().removesuffix("_file")
            if secret in SECRETS and name.lower() != secret and value != "":
                gathered[secret] = (f"file {value}", _secret_file(name, value))
        for name, value in values.items():
            lower = name.lower()
            if value != "" and lower not in INTERNAL and (lower in known or name.startswith(PREFIX.upper())):
                gathered[lower] = (source, value)
    return gathered


def read_dotenv(path: Path | None) -> dict[str, str]:
    """The one rule for `.env`.

    UTF-8 with or without a BOM, `export`, spaces around `=`, quotes, comments.
    """
    if path is None or not path.is_file():
        return {}
    from dotenv import dotenv_values

    text = _read_text(path, str(path))
    return {name: value for name, value in dotenv_values(stream=StringIO(text)).items() if value}


def _secret_file(name: str, path: str) -> str:
    text = _read_text(Path(path), f"{name} points to {path}, which")
    if not text.strip():
        raise ConfigurationError(f"{name} points to {path}, which is empty. Write the secret into it.")
    return text


def _read_text(path: Path, subject: str) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{subject} cannot be read: {error.strerror}") from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw:
        raise ConfigurationError(f"{subject} is not UTF-8 but probably UTF-16. Save it as UTF-8.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"{subject} is not UTF-8 (line {line}). Save it as UTF-8.") from None


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    ours = ", ".join(each.upper() for each in known if each.startswith(PREFIX))
    hint = f"did you mean {near[0].upper()}?" if near else f"known are {ours}"
    return f"unknown setting {name.upper()}: {hint}"


def _origins(settings: Settings, given: dict[str, tuple[str, str]]) -> list[SettingOrigin]:
    found = []
    for each in msgspec.structs.fields(Settings):
        value = getattr(settings, each.name)
        shown = "" if value is None else str(value)
        source = given[each.name][0] if each.name in given else "default"
        found.append(SettingOrigin(each.name.upper(), source, shown))
    return found

"""Finds the base model: a folder, or a hub id brought here file by file.

Everything after this reads a local folder, so nothing later can reach for the network. `HF_HUB_OFFLINE` is
honoured: then only what is already in the cache counts. Weights are taken as safetensors where the model has
them; code from the hub is never run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from pod_worker.core.failure import FailureCode, RunError

HUB_ID = re.compile(r"^[\w][\w.-]{0,95}(/[\w][\w.-]{0,95})?$")
SMALL_FILES = re.compile(r"^(config|generation_config|tokenizer.*|special_tokens_map|added_tokens|vocab)\.json$")
OTHER_FILES = re.compile(r"^(merges\.txt|vocab\.txt|.*\.model|chat_template\.(jinja|json))$")
TIMEOUT_SECONDS = 20.0
T = TypeVar("T")


def locate(model: str, revision: str | None, check_stop: Callable[[], None]) -> Path:
    """The folder that holds the model.

    Raises RunError: INVALID_INPUT when it does not exist or may not be had, NETWORK when the hub cannot be
    reached. `check_stop` is called between files.
    """
    folder = Path(os.path.expanduser(model))  # an unknown user is left as it is
    if folder.is_dir():
        return _checked(folder, model)
    if folder.is_file():
        raise _invalid(f"model {model!r} is a file: give the folder that holds config.json and the weights")
    if not HUB_ID.match(model):
        raise _invalid(f"model {model!r}: there is no such folder on this machine, and it is not a hub id")
    return _checked(_download(model, revision, check_stop), model)


def _checked(folder: Path, model: str) -> Path:
    if not (folder / "config.json").is_file():
        raise _invalid(f"model {model!r} has no config.json: give a folder or hub id of a transformers model")
    return folder


def _download(model: str, revision: str | None, check_stop: Callable[[], None]) -> Path:
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    if constants.HF_HUB_OFFLINE:
        return Path(
            _asked(model, revision, partial(snapshot_download, model, revision=revision, local_files_only=True))
        )
    info = _asked(model, revision, partial(HfApi().model_info, model, revision=revision, timeout=TIMEOUT_SECONDS))
    folder = Path()
    bring = partial(hf_hub_download, model, revision=info.sha)
    for name in wanted_files([file.rfilename for file in info.siblings or []]):
        check_stop()
        folder = Path(_asked(model, revision, partial(bring, filename=name))).parent
    return folder


def wanted_files(names: list[str]) -> list[str]:
    """The files to bring, small ones first.

    Pickled weights are among them only where there are no others.
    """
    small = [name for name in names if SMALL_FILES.match(name) or OTHER_FILES.match(name)]
    for weights in (r"^model.*\.safetensors$", r"^pytorch_model.*\.bin$"):
        found = [name for name in names if re.match(weights, name)]
        if found:
            index = [name for name in names if re.match(r"^(model|pytorch_model).*\.index\.json$", name)]
            return small + index + found
    return small


def _asked(model: str, revision: str | None, ask: Callable[[], T]) -> T:
    from huggingface_hub import constants, errors

    # The client's own transport errors share this root, whichever HTTP library the hub's client is built on.
    transport: type[Exception] = vars(errors)["HTTPError"]
    at = f"{model!r}" + (f" at {revision!r}" if revision else "")
    try:
        return ask()
    except errors.GatedRepoError as error:
        raise _invalid(f"model {at} is gated: accept its licence on the hub and set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise _invalid(f"model {at}: the hub has no such revision; leave revision out or correct it") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise _invalid(
            f"model {at} exists neither here nor on the hub: correct the name, or set HF_TOKEN"
        ) from error
    except (transport, OSError) as error:
        if constants.HF_HUB_OFFLINE:
            raise _invalid(
                f"model {at} is not on this machine and HF_HUB_OFFLINE forbids asking the hub: "
                "give a folder, fill the cache first, or unset HF_HUB_OFFLINE"
            ) from error
        raise RunError(
            FailureCode.NETWORK,
            f"the hub could not be reached for model {at} ({type(error).__name__}): "
            "check the network, or give a folder on this machine",
        ) from error


def _invalid(message: str) -> RunError:
    return RunError(FailureCode.INVALID_INPUT, message)

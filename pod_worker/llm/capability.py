"""What a model accepts: how JSON is asked of it, images, sampling parameters.

The first pattern that fits the model's name decides. An unknown model gets the profile that every model can
answer: plain text with the schema in the prompt. POD_WORKER_LLM_OUTPUT overrides the profile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase

from pod_worker.core.failure import FailureCode, RunError


class OutputProfile(StrEnum):
    JSON_SCHEMA = "json_schema"  # the server enforces the schema
    TOOLS = "tools"  # the answer is the arguments of a forced tool call
    JSON_OBJECT = "json_object"  # the server enforces JSON; the schema is in the prompt
    TEXT = "text"  # the schema is in the prompt


@dataclass(frozen=True, slots=True)
class ModelCapability:
    output: OutputProfile = OutputProfile.TEXT
    takes_images: bool = False
    takes_temperature: bool = True
    counts_reasoning: bool = False  # the token limit is named max_completion_tokens (OpenAI)


_JSON_SCHEMA = ModelCapability(OutputProfile.JSON_SCHEMA, takes_images=True)
_JSON_OBJECT = ModelCapability(OutputProfile.JSON_OBJECT)
_REASONING = ModelCapability(
    OutputProfile.JSON_SCHEMA, takes_images=True, takes_temperature=False, counts_reasoning=True
)
_CLAUDE = ModelCapability(OutputProfile.TOOLS, takes_images=True)
# Claude rejects sampling parameters from Opus 4.7 on, and a forced tool call from Fable 5.1 and the 5.5 models on.
_CLAUDE_5 = replace(_CLAUDE, takes_temperature=False)
_CLAUDE_5_5 = replace(_CLAUDE_5, output=OutputProfile.JSON_SCHEMA)

CAPABILITIES: tuple[tuple[str, ModelCapability], ...] = (
    ("claude-3*", _CLAUDE),
    ("claude-4*", _CLAUDE),
    ("claude-*-4-[78]*", _CLAUDE_5),
    ("claude-*-4", _CLAUDE),
    ("claude-*-4-*", _CLAUDE),
    ("claude-*-5-20*", _CLAUDE_5),  # a date
    ("claude-*-5-*", _CLAUDE_5_5),
    ("claude-*-5", _CLAUDE_5),
    ("claude-*", _CLAUDE_5_5),
    ("gpt-4o*", _JSON_SCHEMA),
    ("gpt-4.1*", _JSON_SCHEMA),
    ("gpt-[5-9]*", _REASONING),
    ("o[134]", _REASONING),
    ("o[134]-*", _REASONING),
    ("gemini-*", _JSON_SCHEMA),
    ("grok-*", _JSON_SCHEMA),
    ("mistral-*", replace(_JSON_SCHEMA, takes_images=False)),
    ("codestral*", replace(_JSON_SCHEMA, takes_images=False)),
    ("deepseek-*", _JSON_OBJECT),
    ("kimi-*", _JSON_OBJECT),
    ("glm-*", _JSON_OBJECT),
)


def short_name(model: str) -> str:
    """Lower case, without the vendor that OpenRouter puts before it.

    The dots that some put into the names of Claude are `-`.
    """
    name = model.strip().lower().rpartition("/")[2]
    return name.replace(".", "-") if name.startswith("claude") else name


def capability_of(model: str, output: OutputProfile | None = None) -> ModelCapability:
    name = short_name(model)
    found = next((each for pattern, each in CAPABILITIES if fnmatchcase(name, pattern)), ModelCapability())
    return found if output is None else replace(found, output=output)


def read_profile(text: str | None) -> OutputProfile | None:
    """The value of POD_WORKER_LLM_OUTPUT. Raises RunError(INVALID_INPUT)."""
    if not text:
        return None
    try:
        return OutputProfile(text.strip().lower())
    except ValueError:
        known = ", ".join(OutputProfile)
        raise RunError(
            FailureCode.INVALID_INPUT, f"POD_WORKER_LLM_OUTPUT is {text!r}. Set it to one of: {known}."
        ) from None

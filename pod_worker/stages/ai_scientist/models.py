"""The language models of a run of AI-Scientist-v2, and the keys that they need.

The original chooses a provider by the model's name, in two places with different rules: `ai_scientist/llm.py`
(plots, paper, review) and `ai_scientist/treesearch/backend` (search). A wrong name would be found after the
experiments are paid, so the same rules are applied before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.model_access import ModelAccess
from pod_worker.stages.ai_scientist.checkout import LAUNCHER, Checkout
from pod_worker.stages.ai_scientist.params import AiScientistParams

OPENAI_KEY, ANTHROPIC_KEY, AWS_KEY = "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AWS_ACCESS_KEY_ID"
NO_KEY = ""
# A client of OpenAI's library refuses to start without a key, also where the server needs none.
PLACEHOLDER_KEY = "none"

# parameter -> where bfts_config.yaml has the model
SEARCH_STEPS: dict[str, tuple[str, ...]] = {
    "model_code": ("agent", "code"),
    "model_feedback": ("agent", "feedback"),
    "model_vlm": ("agent", "vlm_feedback"),
    "model_report": ("report",),
}
WRITING_STEPS = ("model_agg_plots", "model_writeup", "model_writeup_small", "model_citation", "model_review")
VISION_STEPS = frozenset({"model_writeup_small", "model_review"})  # also look at figures, through vlm.py
_REVIEW_STEPS = frozenset({"model_review"})
_PAPER_STEPS = frozenset({"model_writeup", "model_writeup_small", "model_citation"})

_SEARCH_RULES = ((re.compile("claude-"), AWS_KEY), (re.compile("^ollama/"), NO_KEY), (re.compile(""), OPENAI_KEY))
_WRITING_RULES = (
    (re.compile("^claude-"), ANTHROPIC_KEY),
    (re.compile("^bedrock.*claude"), AWS_KEY),
    (re.compile("^vertex_ai.*claude"), "GOOGLE_APPLICATION_CREDENTIALS"),
    (re.compile("^ollama/"), NO_KEY),
    (re.compile("gpt|o1|o3"), OPENAI_KEY),
    (re.compile("^deepseek-coder-v2-0724$"), "DEEPSEEK_API_KEY"),
    (re.compile("^deepcoder-14b$"), "HUGGINGFACE_API_KEY"),
    (re.compile("^llama3.1-405b$"), "OPENROUTER_API_KEY"),
    (re.compile("gemini"), "GEMINI_API_KEY"),
)


@dataclass(frozen=True, slots=True)
class ModelUse:
    step: str  # the parameter that names the model
    model: str
    key: str | None  # the variable that holds its key; NO_KEY; None: the original does not know the model


def model_uses(params: AiScientistParams, checkout: Checkout) -> list[ModelUse]:
    """The models that this run will ask."""
    uses = [
        ModelUse(step, model, _key_of(model, _SEARCH_RULES))
        for step, model in _search_models(params, checkout.config)
    ]
    for step in WRITING_STEPS:
        model = getattr(params, step) or params.model or checkout.options.get(step)
        if step in checkout.options and model and _is_used(step, params):
            uses.append(ModelUse(step, model, _key_of(model, _WRITING_RULES)))
    return uses


def check_models(uses: list[ModelUse], params: AiScientistParams, checkout: Checkout, access: ModelAccess) -> None:
    """Refuse models that this run cannot use.

    Raises RunError: INVALID_INPUT for such a model, LLM_AUTH for a key that is absent.
    """
    for step in WRITING_STEPS:
        if getattr(params, step) and step not in checkout.options:
            raise RunError(
                FailureCode.INVALID_INPUT,
                f"{LAUNCHER} of this checkout has no option --{step}: leave {step!r} out",
            )
    problems = list(_problems(uses, checkout))
    if problems:
        raise RunError(FailureCode.INVALID_INPUT, "; ".join(problems))
    keys = keys_for(uses, access)
    for use in uses:
        if use.key and use.key not in keys:
            raise RunError(
                FailureCode.LLM_AUTH,
                f"the worker has no {use.key}, which AI-Scientist-v2 needs for {use.step}={use.model}. "
                f"Fix: set {use.key} of the worker, or name other models",
            )


def keys_for(uses: list[ModelUse], access: ModelAccess) -> dict[str, str]:
    """The variables that the original needs for these models, and no others."""
    wanted = {use.key for use in uses}
    found: dict[str, str | None] = {}
    if OPENAI_KEY in wanted:
        found[OPENAI_KEY] = access.openai_api_key or (PLACEHOLDER_KEY if access.openai_base_url else None)
        found["OPENAI_BASE_URL"] = access.openai_base_url
    elif NO_KEY in wanted:
        found[OPENAI_KEY] = PLACEHOLDER_KEY
    if ANTHROPIC_KEY in wanted:
        found[ANTHROPIC_KEY] = access.anthropic_api_key
        found["ANTHROPIC_BASE_URL"] = access.anthropic_base_url
    return {name: value for name, value in found.items() if value}


def _search_models(params: AiScientistParams, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for step, path in SEARCH_STEPS.items():
        section: Any = config
        for name in path:
            section = section.get(name) if isinstance(section, Mapping) else None
        named = section.get("model") if isinstance(section, Mapping) else None
        if model := getattr(params, step) or params.model or named:
            yield step, str(model)


def _is_used(step: str, params: AiScientistParams) -> bool:
    if step in _PAPER_STEPS:
        return params.wants_paper
    return params.wants_review if step in _REVIEW_STEPS else True


def _key_of(model: str, rules: tuple[tuple[re.Pattern[str], str], ...]) -> str | None:
    return next((key for pattern, key in rules if pattern.search(model)), None)


def _problems(uses: list[ModelUse], checkout: Checkout) -> Iterator[str]:
    for use in uses:
        if use.key is None:
            yield f"AI-Scientist-v2 does not know the model {use.step}={use.model}: see ai_scientist/llm.py"
        elif use.key not in (NO_KEY, OPENAI_KEY, ANTHROPIC_KEY):
            yield (
                f"{use.step}={use.model} needs {use.key}, which a worker does not pass on: "
                f"name a model of OpenAI{'' if use.step in SEARCH_STEPS else ' or Anthropic'} as {use.step!r}"
            )
        elif use.step in VISION_STEPS and checkout.vision_models and use.model not in checkout.vision_models:
            known = ", ".join(sorted(checkout.vision_models))
            yield f"{use.step}={use.model} cannot look at figures in this checkout; it knows {known}"

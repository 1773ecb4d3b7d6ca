"""How a run reaches language models: provider, address and key, as plain values.

The worker reads them from its settings and sends them to the child of a pipeline that needs them, on the child's
own pipe: never in an argument, an environment or a document.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OPENAI, ANTHROPIC, SCRIPTED, REPLAY = "openai", "anthropic", "scripted", "replay"
PROVIDERS = (OPENAI, ANTHROPIC, SCRIPTED, REPLAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAccess:
    provider: str | None = None  # of PROVIDERS; None: the model's name and the keys decide
    openai_api_key: str | None = field(default=None, repr=False)
    openai_base_url: str | None = None
    anthropic_api_key: str | None = field(default=None, repr=False)
    anthropic_base_url: str | None = None
    prices_file: str | None = None  # replaces the prices that ship with the package
    output: str | None = None  # how JSON is asked for; None: what is known of the model
    cassettes: str | None = None  # folder of recorded answers, for `replay`

    def secrets(self) -> list[str]:
        return [key for key in (self.openai_api_key, self.anthropic_api_key) if key]

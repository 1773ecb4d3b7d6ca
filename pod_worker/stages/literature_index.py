"""The index of published works that a run searches."""

from __future__ import annotations

from pod_worker.core.model_access import SCRIPTED, ModelAccess
from pod_worker.core.research.literature import LiteratureSearch
from pod_worker.core.stage import Context
from pod_worker.literature.choice import literature_search
from pod_worker.stages.language_models import choose_provider

AUTO = "auto"


def open_literature(context: Context, source: str, model: str) -> LiteratureSearch:
    """The index that a run names.

    `auto` is OpenAlex, but recorded works for the scripted model, which must work without a network.
    """
    if source == AUTO:
        provider = choose_provider(context.model_access or ModelAccess(), model)
        source = "recorded" if provider == SCRIPTED else "openalex"
    return literature_search(source, context.stop)

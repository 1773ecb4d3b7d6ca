"""Stand-in: the list of models that may look at figures."""

AVAILABLE_VLMS = [
    "gpt-4o-2024-05-13",
    "gpt-4o-2024-11-20",
]

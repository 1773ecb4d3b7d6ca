"""What bounds and steers a search."""

from __future__ import annotations

from dataclasses import dataclass, field

from pod_worker.core.execution import ExecutionLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """Numbers of one search.

    Defaults are those of AI-Scientist-v2 (bfts_config.yaml) where it has the number.
    """

    seed: int = 0
    slots: int = 1  # executions at once
    gpus: tuple[tuple[int, ...], ...] = ()  # of each slot; empty: no GPU
    num_drafts: int = 3
    debug_probability: float = 0.5
    max_debug_depth: int = 3
    seeds: int = 3  # replicas of a stage's best node; at least two, or there is no noise band
    band_floor: float = 0.0  # smallest difference of scores that the task can resolve
    max_model_failures: int = 3  # in a row, before the search ends with the last one
    max_starts: int = 3  # of one node that took the whole process down each time
    agent_turns: int = 0  # of the agent that writes a program; 0: one call writes it
    hosts: tuple[str, ...] = ()  # that programs may reach; empty: no network
    limits: ExecutionLimits = field(default_factory=ExecutionLimits)

    def __post_init__(self) -> None:
        """Raises ValueError that names the setting."""
        for name in ("slots", "num_drafts", "max_model_failures", "max_starts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.agent_turns < 0 or self.agent_turns == 1:
            raise ValueError(f"agent_turns must be 0, or at least 2 to write and finish, not {self.agent_turns}")
        if self.seeds < 2:
            raise ValueError(f"seeds must be at least 2, not {self.seeds}: one replica shows no noise")
        if not 0 <= self.debug_probability <= 1:
            raise ValueError(f"debug_probability must be 0 to 1, not {self.debug_probability}")
        if self.gpus and len(self.gpus) != self.slots:
            raise ValueError(f"gpus has {len(self.gpus)} entries for {self.slots} slots; give one entry a slot")

"""The four experiment stages: goal, operation, limits, and what ends them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pod_worker.search.tree.node import Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRules:
    name: str
    goals: str  # shown to the model
    operation: Operation  # of a step that is no debug step
    max_iterations: int
    plateau: int | None = None  # iterations without an improvement beyond the noise band that end the stage
    ends_when_scored: bool = False
    may_replace: bool = True  # whether its best node may become the start of the next stage
    needs_score: bool = False  # whether the run fails without a scored node

    def __post_init__(self) -> None:
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations of {self.name} must be at least 1, not {self.max_iterations}")


# Iterations: AI-Scientist-v2, bfts_config.yaml.
STAGE_RULES: dict[str, StageRules] = {
    rules.name: rules
    for rules in (
        StageRules(
            name="Stage_1",
            goals="Write a first complete program that works and gets a score. Keep it simple: a plain baseline "
            "for the idea, on the given data, without tuning.",
            operation=Operation.DRAFT,
            max_iterations=20,
            ends_when_scored=True,
            needs_score=True,
        ),
        StageRules(
            name="Stage_2",
            goals="Tune the baseline: change hyperparameters such as learning rate, regularisation, size or "
            "number of iterations. Do not change the method. One change a program, different from those tried.",
            operation=Operation.TUNE,
            max_iterations=12,
            plateau=8,
        ),
        StageRules(
            name="Stage_3",
            goals="Carry out the research agenda: test the hypothesis of the idea with novel changes to the "
            "method, one experiment of the idea after the other.",
            operation=Operation.IMPROVE,
            max_iterations=12,
            plateau=8,
        ),
        StageRules(
            name="Stage_4",
            goals="Ablate: remove or disable one component of the program at a time, so that its contribution "
            "shows. Everything else stays as it is.",
            operation=Operation.ABLATE,
            max_iterations=18,
            may_replace=False,
        ),
    )
}


def stage_rules(stage: str, max_iterations: int | None = None) -> StageRules:
    """The rules of a stage, with another number of iterations where it is given.

    Raises KeyError for a name that is no experiment stage, ValueError for a limit below one.
    """
    rules = STAGE_RULES[stage]
    return rules if max_iterations is None else replace(rules, max_iterations=max_iterations)

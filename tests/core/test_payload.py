"""The payload types against the contract's table of event types, written here once more in its own words."""

from __future__ import annotations

import dataclasses

import pytest

from pod_worker.core.payload import PAYLOADS, RENAMED, Payload
from pod_worker.core.stage import STAGE_TITLES, stage_title

# `?`: may be null or absent. Types that share a line share their fields.
CONTRACT = """\
ai.run.enqueued: hypothesis_id? pipeline? priority?
ai.run.started: pod_id worker_id? gpu? region? image?
ai.run.heartbeat: gpu_util? mem_gb? temp_c? cpu_pct? rss_gb? disk_free_gb? gpu_power_w?
ai.run.status_changed: from to reason?
ai.run.completed: total_duration_s
ai.run.failed: code message stage? traceback? retryable?
ai.run.canceled: by? reason?
ai.run.lost: reason
ai.run.preempted: reason seconds_left?
ai.run.stage_started: stage desc?
ai.run.stage_progress: stage progress eta_s? iteration? max_iterations? good_nodes? buggy_nodes? total_nodes? \
best_metric?
ai.run.stage_metric: stage name value step? epoch? unit?
ai.run.stage_completed: stage duration_s? summary?
ai.run.stage_failed: stage code message
ai.run.log: level? message kv? source?
ai.node.created ai.node.executing ai.node.completed ai.node.selected_best: \
stage node_id parent_id? plan? is_buggy? exec_time_s? metric?
ai.ideation.started:
ai.ideation.generated: count top_k? ideas? hypothesis_id? is_scripted?
ai.ideation.failed: code message
ai.paper.started:
ai.paper.generated: artifact_key word_count?
ai.validation.auto_started: model rubric_version?
ai.validation.auto_completed: verdict scores? notes?
ai.artifact.detected: path
ai.artifact.registered: key bytes content_type kind sha256? role?
ai.artifact.failed: key code message
ai.training.checkpoint: step key bytes sha256
ai.budget.warning ai.budget.exceeded: spent_usd limit_usd fraction
ai.pod.gpu_shortage: required_gpus available_gpus message?
"""

FIELDS: dict[str, set[str]] = {}
for line in CONTRACT.strip().splitlines():
    names, _, words = line.partition(":")
    FIELDS |= {name: set(words.split()) for name in names.split()}


def spelled(kind: type[Payload]) -> set[str]:
    return {
        RENAMED.get(each.name, each.name) + ("" if each.default is dataclasses.MISSING else "?")
        for each in dataclasses.fields(kind)
    }


def test_every_type_of_the_contract_has_a_payload_and_no_other_has() -> None:
    assert PAYLOADS.keys() == FIELDS.keys()
    for name, kind in PAYLOADS.items():
        assert kind.type == name


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_payload_has_the_contracts_fields(name: str) -> None:
    assert spelled(PAYLOADS[name]) == FIELDS[name]


def test_only_heartbeats_are_not_kept_and_only_samples_may_be_thinned() -> None:
    assert {name for name, kind in PAYLOADS.items() if kind.transient} == {"ai.run.heartbeat"}
    assert {name for name, kind in PAYLOADS.items() if kind.sample} == {
        "ai.run.heartbeat",
        "ai.run.stage_progress",
        "ai.run.stage_metric",
        "ai.run.log",
    }


def test_every_stage_of_the_contract_has_words_and_a_foreign_one_is_its_own() -> None:
    ours = {"Stage_1", "Stage_2", "Stage_3", "Stage_4", "plots", "paper", "validation", "ideation", "training"}
    ours |= {"command", "ai_scientist"}
    assert STAGE_TITLES.keys() == ours
    assert stage_title("Stage_2") == "baseline tuning"
    assert stage_title("warp drive") == "warp drive"

"""Stand-in of the search: the same files as AI-Scientist-v2, without programs and models."""

import json
import os
import time
from pathlib import Path

import yaml

STAGES = {
    1: "stage_1_initial_implementation_1_preliminary",
    2: "stage_2_baseline_tuning_1_first_attempt",
    3: "stage_3_creative_research_1_first_attempt",
    4: "stage_4_ablation_studies_1_first_attempt",
}
METRIC = {
    "value": {
        "metric_names": [
            {
                "metric_name": "accuracy",
                "lower_is_better": False,
                "data": [{"dataset_name": "digits", "final_value": 0.5, "best_value": 0.75}],
            }
        ]
    }
}


def perform_experiments_bfts(config_path: str) -> None:
    config = yaml.safe_load(Path(config_path).read_text())
    behavior = json.loads(Path(config["desc_file"]).read_text()).get("Code", "")
    logs = Path(config["log_dir"]) / "0-run"
    with open("searches", "a") as count:
        count.write("1\n")
    best: dict[str, object] | None = None
    for number, name in STAGES.items():
        nodes = [] if best is None else [best]
        nodes += [_node(f"{number}a", True), _node(f"{number}b", "no-working-program" in behavior)]
        best = nodes[-1]
        _save_stage(logs / name, nodes, {f"{number}b": f"{number}a"})
        print(f"Step {len(nodes)}/{config['agent']['stages'][f'stage{number}_max_iters']} at stage_{name}")
        if "no-working-program" in behavior:
            print("Experiment ended: Could not find working implementation in initial stage after 2 iterations")
            raise ValueError("not enough values to unpack (expected 4, got 1)")
        if "wait" in behavior:
            _wait()
    results = logs / "experiment_results" / "experiment_4b"
    results.mkdir(parents=True)
    (results / "loss.png").write_bytes(b"a plot")
    (results / "secret.png").symlink_to("/etc/hostname")
    for kind in ("draft", "baseline", "research", "ablation"):
        (logs / f"{kind}_summary.json").write_text(json.dumps({"kind": kind}))


def _node(name: str, is_buggy: bool) -> dict[str, object]:
    return {
        "id": name,
        "plan": f"plan of {name}",
        "code": "print(1)",
        "is_buggy": is_buggy,
        "is_buggy_plots": is_buggy,
        "exec_time": 1.5,
        "metric": {"value": None} if is_buggy else METRIC,
    }


def _save_stage(folder: Path, nodes: list[dict[str, object]], parents: dict[str, str]) -> None:
    (folder / "notes").mkdir(parents=True)
    good = [node for node in nodes if not node["is_buggy"]]
    (folder / "journal.json").write_text(json.dumps({"nodes": nodes, "node2parent": parents, "__version": "2"}))
    (folder / "tree_plot.html").write_text(f"<p>{os.environ['OPENAI_API_KEY']}</p>")
    (folder / "notes" / "stage_progress.json").write_text(json.dumps({"best_metric": "0.5" if good else "None"}))
    if good:
        (folder / f"best_solution_{good[-1]['id']}.py").write_text("print(1)\n")
        (folder / "best_node_id.txt").write_text(str(good[-1]["id"]))


def _wait() -> None:
    """With a process in a session of its own, as data loaders of programs have."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    Path("ready").touch()
    time.sleep(600)

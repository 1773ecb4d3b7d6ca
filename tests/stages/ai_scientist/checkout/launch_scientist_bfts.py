"""Stand-in of the launcher of AI-Scientist-v2: its command line, its files and its end."""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

import yaml
from ai_scientist.llm import create_client  # type: ignore[import-not-found]
from ai_scientist.treesearch.perform_experiments_bfts_with_agentmanager import (  # type: ignore[import-not-found]
    perform_experiments_bfts,
)

MARK = "XDG_STAND_IN_TEST"  # the kill at the end spares processes of other tests


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run AI scientist experiments")
    parser.add_argument("--writeup-type", type=str, default="icbinb", choices=["normal", "icbinb"])
    parser.add_argument("--load_ideas", type=str, default="ideas/i_cant_believe_its_not_better.json")
    parser.add_argument("--load_code", action="store_true")
    parser.add_argument("--idea_idx", type=int, default=0)
    parser.add_argument("--add_dataset_ref", action="store_true")
    parser.add_argument("--writeup-retries", type=int, default=3)
    parser.add_argument("--attempt_id", type=int, default=0)
    parser.add_argument("--model_agg_plots", type=str, default="o3-mini-2025-01-31")
    parser.add_argument("--model_writeup", type=str, default="o1-preview-2024-09-12")
    parser.add_argument("--model_citation", type=str, default="gpt-4o-2024-11-20")
    parser.add_argument("--num_cite_rounds", type=int, default=20)
    parser.add_argument("--model_writeup_small", type=str, default="gpt-4o-2024-05-13")
    parser.add_argument("--model_review", type=str, default="gpt-4o-2024-11-20")
    parser.add_argument("--skip_writeup", action="store_true")
    parser.add_argument("--skip_review", action="store_true")
    return parser.parse_args()


def prepare(args: argparse.Namespace) -> Path:
    idea = json.loads(Path(args.load_ideas).read_text())[args.idea_idx]
    if args.load_code:
        idea["Code"] = Path(args.load_ideas).with_suffix(".py").read_text()
    folder = Path("experiments", f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{idea['Name']}_attempt_{args.attempt_id}")
    folder.mkdir(parents=True)
    print(f"Results will be saved in {folder}")
    (folder / "idea.md").write_text(f"## Title\n\n{idea['Title']}\n")
    (folder / "idea.json").write_text(json.dumps(idea))
    config = yaml.safe_load(Path("bfts_config.yaml").read_text())
    config |= {"desc_file": str(folder / "idea.json"), "log_dir": str(folder / "logs")}
    (folder / "bfts_config.yaml").write_text(yaml.safe_dump(config))
    return folder


def write_up(folder: Path, args: argparse.Namespace, behavior: str) -> None:
    create_client(args.model_writeup)
    (folder / "latex").mkdir()
    shutil.copyfile("ai_scientist/blank.tex", folder / "latex" / "template.tex")
    if "no-paper" in behavior and not (folder / "cached_citations.bib").exists():
        (folder / "cached_citations.bib").write_text("@article{a}")
        print("Writeup process did not complete successfully after all retries.")
        raise UnboundLocalError("cannot access local variable 'pdf_path'")
    for name in ("", "_reflection1", "_reflection2", "_reflection_final_page_limit"):
        (folder / f"{folder.name}{name}.pdf").write_text(f"%PDF{name}")


def review(folder: Path, args: argparse.Namespace, behavior: str) -> None:
    print("Paper found at: ", folder)
    create_client(args.model_review)
    if "no-review" in behavior:
        raise Exception("Text too short")
    (folder / "review_text.txt").write_text(json.dumps({"Overall": 6, "Soundness": 3, "Decision": "Accept"}))
    (folder / "review_img_cap_ref.json").write_text("{}")
    print("Paper review completed.")


def kill_every_python() -> None:
    print("Start cleaning up processes", flush=True)
    import psutil

    for process in psutil.process_iter():
        try:
            is_python = "python" in " ".join(process.cmdline()).lower()
            if is_python and process.environ().get(MARK) == os.environ[MARK] and process.pid != os.getpid():
                process.kill()
        except psutil.Error:
            continue
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    args = parse_arguments()
    folder = prepare(args)
    perform_experiments_bfts(str(folder / "bfts_config.yaml"))
    behavior = json.loads((folder / "idea.json").read_text()).get("Code", "")
    (folder / "figures").mkdir()
    (folder / "figures" / "final.png").write_bytes(b"a figure")
    (folder / "auto_plot_aggregator.py").write_text("print(1)\n")
    counts = {"tokens": {"prompt": 1000, "completion": 100, "reasoning": 0, "cached": 10}, "cost (USD)": 0.25}
    (folder / "token_tracker.json").write_text(json.dumps({args.model_agg_plots: counts}))
    if not args.skip_writeup:
        write_up(folder, args, behavior)
        if not args.skip_review:
            review(folder, args, behavior)
    if "survive" in behavior:
        while not Path(behavior.split()[-1]).exists():
            time.sleep(0.02)
    kill_every_python()
    sys.exit(0)

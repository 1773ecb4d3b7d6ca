"""Starts the launcher of AI-Scientist-v2 with finished experiments.

Copied into the program's folder and executed by the interpreter of the checkout: it imports only the standard
library and the checkout. The launcher is unchanged; only its call of the experiments copies their results instead.
The original has no such option, but reads everything that follows from these files.
"""

import os
import runpy
import shutil

VARIABLE = "AI_SCIENTIST_FINISHED_EXPERIMENT"
KEPT_FILES = ("cached_citations.bib", "citations_progress.json")  # rounds of citations that are paid


def copy_finished(config_path: str) -> None:
    """Takes the place of `perform_experiments_bfts`."""
    source, target = os.environ[VARIABLE], os.path.dirname(config_path)
    shutil.copytree(os.path.join(source, "logs"), os.path.join(target, "logs"), symlinks=True, dirs_exist_ok=True)
    for name in KEPT_FILES:
        if os.path.isfile(os.path.join(source, name)):
            shutil.copyfile(os.path.join(source, name), os.path.join(target, name))
    print(f"Continuing with the finished experiments of {source}")


def main() -> None:
    from ai_scientist.treesearch import (  # type: ignore[import-not-found]
        perform_experiments_bfts_with_agentmanager as experiments,
    )

    experiments.perform_experiments_bfts = copy_finished
    runpy.run_path("launch_scientist_bfts.py", run_name="__main__")


if __name__ == "__main__":
    main()

"""What the stand-in of AI-Scientist-v2 needs of its machine."""

from __future__ import annotations

import os
from pathlib import Path

MARK = "XDG_STAND_IN_TEST"  # the stand-in kills only processes with its own value, should its isolation fail


def latex_stand_in(folder: Path) -> str:
    """A PATH with programs of LaTeX's names: the stand-in compiles nothing."""
    programs = folder / "latex"
    programs.mkdir(exist_ok=True)
    for name in ("pdflatex", "bibtex"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    return f"{programs}{os.pathsep}{os.environ['PATH']}"

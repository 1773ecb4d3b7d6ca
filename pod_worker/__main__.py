"""`python -m pod_worker --mode …` is `pod-worker worker --mode …`.

Any other words are the command line's.
"""

from __future__ import annotations

import sys

from pod_worker.cli import main

if __name__ == "__main__":
    words = sys.argv[1:]
    is_worker = not words or (words[0].startswith("--") and words[0] not in ("--help", "--version", "--debug"))
    main(["worker", *words] if is_worker else words)

"""`python manage_runs.py list|show|reset|cancel|stats …` = `pod-worker runs …`."""

import sys

from pod_worker.cli import main

main(["runs", *sys.argv[1:]])

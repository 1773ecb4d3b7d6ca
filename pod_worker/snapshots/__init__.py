"""The checkpoints and outputs of a user's command: saved during the run, restored for the next attempt.

`snapshot_store` copies a folder to the artifact store and back; `outputs` uploads results. Neither knows what the
files mean.
"""

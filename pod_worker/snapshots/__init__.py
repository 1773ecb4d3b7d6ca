"""The checkpoints and outputs of a user's command, saved and restored.

`snapshot_store` copies a folder to the artifact store and back; `outputs` uploads results. Neither knows what the
files mean.
"""

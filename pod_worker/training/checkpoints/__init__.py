"""Checkpoints of a training: what they hold, where they are kept."""

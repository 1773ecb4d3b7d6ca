"""Runs of an AI-Scientist-v2 checkout: the original, contained and watched."""

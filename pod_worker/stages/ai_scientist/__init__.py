"""Runs of an AI-Scientist-v2 checkout: the original program, contained and watched."""

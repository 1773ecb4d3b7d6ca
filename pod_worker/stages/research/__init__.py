"""The stages of a research run: search, plots, paper, validation."""

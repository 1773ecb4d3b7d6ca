"""Ideation: a hypothesis becomes research ideas."""

"""Fixtures of the search's tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch, request):
    """No flush to the disk: it takes 4 ms here, and only a machine without power needs it.

    test_journal.py checks that each record is flushed.
    """
    if not request.node.name.startswith("test_a_record_is_flushed"):
        monkeypatch.setattr(os, "fsync", lambda fd: None)

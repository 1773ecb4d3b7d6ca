"""Errors of submitting and finding jobs: each has the cause, then the fix."""

from __future__ import annotations


class SubmissionError(Exception):
    """The control plane or the machine does not allow it."""


class JobInputError(SubmissionError):
    """What was given cannot be submitted."""


class NoSuchRunError(SubmissionError):
    """There is no such run, or there are several."""


class SubmissionAccessError(SubmissionError):
    """The control plane refuses the key."""


class SubmissionOutageError(SubmissionError):
    """The control plane does not answer now."""

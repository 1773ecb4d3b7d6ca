"""Runs untrusted programs: the implementation of `core.execution.CodeRunner`.

`client` is the entry. A warm server process forks a keeper for each execution; the keeper forks and watches the
program. docs/sandbox.md says what is protected and what is not.
"""

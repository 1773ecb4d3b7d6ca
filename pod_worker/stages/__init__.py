"""One file per kind of work.

A stage gets a `core.stage.Context`, returns its summary, raises to fail.
"""

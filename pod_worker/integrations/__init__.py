"""Training libraries report through `pod_worker.report`: one module per library.

A job imports them in an interpreter without pod_worker's packages. So a module here imports its library, the
standard library and `pod_worker.report`, nothing else.
"""

"""Submits and follows jobs, for `pod-worker run` and `pod_worker.jobs`.

It prints nothing and reads no settings; its errors name the cause and the fix.
"""

"""A fake RunPod that real clients cannot tell apart: REST v2 and v1, GraphQL, logs, bills, trouble on demand.

For tests and rehearsals at no cost. It imitates the control plane; what runs inside a pod is a runner's affair.
Start at `server.py`: `serve` for a process, `running` for a test.
"""

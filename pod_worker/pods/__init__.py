"""Rented pods: one port, three RunPod adapters behind it, and the care that keeps a bill from growing unseen.

Everything here is synchronous and takes its clock, ids and keys as arguments. It never reads the environment
(except the `from_env` composition functions of the classic client) and never imports the fake server.
"""

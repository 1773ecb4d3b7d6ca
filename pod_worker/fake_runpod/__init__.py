"""A fake RunPod: REST v2 and v1, GraphQL, logs, bills and injected faults.

Official clients work against it unchanged. It imitates RunPod's API; a container runner executes what runs in a
pod. Start at `server.py`: `serve` for a process, `running` for a test. Layers, each importing only those below
it: server, api, runtime, containers, cloud, billing, errors and timestamps.
"""

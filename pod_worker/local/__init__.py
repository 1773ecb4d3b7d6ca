"""The local stack: a real MongoDB replica set and a real S3 server from installed packages, plus child processes.

Everything listens on loopback only and dies with the process that started it. Not meant to serve other machines.
"""

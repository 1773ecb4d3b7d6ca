"""The local stack: a real MongoDB and a real S3 server, plus child processes.

The servers come from installed packages.

Everything listens on loopback only and dies with the process that started it. Not meant to serve other machines.
"""

"""Rented GPU pods: provider interface, RunPod adapters, launcher, SSH.

Everything is synchronous and takes its clock, ids and keys as arguments. Only the composition functions of the
classic client read the environment. Nothing imports the fake server.
"""

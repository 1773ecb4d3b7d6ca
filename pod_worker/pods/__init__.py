"""Rented GPU pods: one provider interface, three RunPod adapters, exactly-once launches, SSH bootstrap.

Everything is synchronous and takes its clock, ids and keys as arguments. Only the composition functions of the
classic client read the environment. Nothing imports the fake server.
"""

"""The chaos harness: real servers, real workers, faults from a seed, and a checker that trusts no component.

`python -m chaos --seed 1 --minutes 5 --workers 8` starts a three-node replica set, S3, control planes and workers
on this machine, breaks them for five minutes, lets the queue drain, and compares what every part left behind:
the database's own change history, the pods' spools, the runs' evidence, the process table and the object store.
It is not part of the product.
"""

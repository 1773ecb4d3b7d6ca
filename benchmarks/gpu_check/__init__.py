"""Does training work on this machine? `scripts/gpu_check.sh` prints one table in at most eight minutes.

Rows run in processes of their own, because a CUDA error or a hang must cost one row only. Nothing is downloaded:
models are tiny and random.
"""

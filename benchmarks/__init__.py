"""Speed beside peers and physical limits; `python -m benchmarks` prints and stores every table."""

"""The pipeline `command`: a program of the user, executed as it is.

`params` is what a run's document keeps. `execution` starts, watches and ends the program in the run's own process.
"""

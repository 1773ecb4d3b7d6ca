"""The user's program as a process: its environment, its output, its end."""

"""`pod-worker run` and `pod-worker wait`: a command of the user's own."""

"""The files of a working directory: scan, upload by content, exact copy on a pod."""

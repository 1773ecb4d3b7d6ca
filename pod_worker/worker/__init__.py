"""The daemon on a pod: claims a run, supervises its child, keeps the lease."""

"""The base model of a training: where it comes from, what it supports, its loss."""

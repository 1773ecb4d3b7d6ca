"""A pipeline in a package of its own."""

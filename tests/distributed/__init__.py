"""Equality of several gloo processes with one process."""

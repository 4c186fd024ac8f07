"""Sharded."""

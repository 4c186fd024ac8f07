"""Blocked."""

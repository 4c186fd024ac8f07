"""Paired sets."""

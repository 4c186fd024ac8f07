"""Image text."""

"""Dual encoders of images and texts: open_clip's and our own."""

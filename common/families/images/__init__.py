"""Image projects: options of image sets, online probe, validation curves.

Never here: a project's network or loss.
"""

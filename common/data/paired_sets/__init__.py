"""A background and a target set: added patterns, attributes, volumes, and their readers.

Never here: losses that separate the two (`losses`).
"""

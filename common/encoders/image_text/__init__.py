"""Two towers behind one interface: open_clip's and our own.

Never here: zero-shot templates (`evaluation/image_text`).
"""

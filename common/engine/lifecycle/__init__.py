"""A run and its life: folder, settings, state, lock, signals, stages.

Never here: what a trained module is worth (`engine/run.py` evaluates), a project's stages.
"""

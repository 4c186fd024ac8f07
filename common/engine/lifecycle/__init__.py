"""What a run is and how it lives: folder, settings, state, lock, signals, stages.

Never here: what a trained module is worth (`engine/run.py` evaluates), a project's stages.
"""

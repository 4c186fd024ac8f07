"""Encoders of dialogues as folders of transformers.

Never here: training state, encoders of single sentences (`export/transformers.py`).
"""

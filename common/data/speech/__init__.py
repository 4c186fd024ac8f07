"""Waveforms, readers of spoken sets, transcripts.

Never here: filter banks (`encoders/speech`), error rates (`evaluation/speech`).
"""

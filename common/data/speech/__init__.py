"""Waveforms, readers of spoken sets, transcripts."""

"""Speech and text: Whisper towers, recordings with transcripts, zero-shot evaluation, export."""

"""What a run is and how it lives: folder, settings, state, lock, signals, stages."""

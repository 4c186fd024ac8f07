"""The embedding benchmark: its sets, how each task is scored, and a bridge to mteb."""

"""Image-text projects: pairs, two encoders, zero-shot and retrieval evaluation."""

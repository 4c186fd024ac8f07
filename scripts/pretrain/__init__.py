"""Training of the small models that are shipped under data/models."""

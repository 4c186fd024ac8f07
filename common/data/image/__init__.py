"""Image sets, seeded transforms, views of an image, evaluation sets."""

"""GLUE: config, metrics, pseudo labels and submission files."""

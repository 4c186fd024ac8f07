"""Text encoders for retrieval: training sets, baselines, evaluation, search."""

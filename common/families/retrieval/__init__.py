"""Text encoders for retrieval: experiment, training sets, evaluation with trivial baselines, search."""

"""Text encoders for retrieval: experiment, training sets, evaluation with trivial baselines, search.

Never here: a project's loss or mining rule.
"""

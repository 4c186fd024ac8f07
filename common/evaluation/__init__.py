"""Evaluators: plain functions on cached embeddings that return flat ``name -> number`` dicts.

All of them are deterministic, run under exact float arithmetic without gradients and in blocks.
A metric ``m`` that has a chance value comes with ``m_chance``.

Never here: training steps, reading checkpoints.
"""

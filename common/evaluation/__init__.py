"""Evaluators: plain functions on cached embeddings that return flat ``name -> number`` dicts.

All of them are deterministic. Searches and retrieval run under exact float arithmetic, without
gradients and in blocks; evaluators of small sets may hold a whole similarity matrix.
A metric ``m`` that has a chance value comes with ``m_chance``.
"""

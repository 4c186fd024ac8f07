"""Contrastive losses for PyTorch.

The losses are in `losses`, their sums over pairs in `kernels`, and collectives with gradients in
`distributed`. `open_clip`, `sentence_transformers`, `lightly` and `pytorch_metric_learning` hold
losses with the constructors and calls of these libraries.
"""

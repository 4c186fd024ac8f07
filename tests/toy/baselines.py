"""Baselines of the toy: no training, one number."""


def constant(cfg, workspace):
    """All embeddings equal but one: a spread, and its items."""
    workspace.items("spread", [0.0, 0.2])
    return {"spread": 0.1}

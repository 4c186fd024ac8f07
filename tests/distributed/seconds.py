"""CPU seconds of the ranks of all pools: no process of a test session waits for them."""

ranks = 0.0

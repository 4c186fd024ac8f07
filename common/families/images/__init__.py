"""Image projects: sets, networks, evaluation by kNN and linear probes."""

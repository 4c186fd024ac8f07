"""STS, transfer and word-similarity protocols, metrics of classes."""

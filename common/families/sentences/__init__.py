"""What every sentence-embedding experiment shares: data, module, STS evaluation, export, search.

A project adds a loss: it subclasses `SentenceModule` and calls `sentence_experiment`.
"""

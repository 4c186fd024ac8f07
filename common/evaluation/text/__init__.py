"""STS, transfer and word-similarity protocols, tasks of public benchmarks.

Never here: a project's own diagnostics.
"""

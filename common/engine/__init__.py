"""Training engine: what a project needs to describe an experiment.

Never here: a project's name, a loss, a data set.
"""

"""Training engine: what a project needs to describe an experiment."""

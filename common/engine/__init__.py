"""Training engine: what a project needs to describe an experiment."""

from common.engine.experiment import Experiment, Plan, Requirement, Stage
from common.engine.module import ContrastiveModule
from common.engine.workspace import Workspace

__all__ = ["ContrastiveModule", "Experiment", "Plan", "Requirement", "Stage", "Workspace"]

"""Sweeps over settings of a config with Optuna: one study an arm, every trial a run of its own.

Never here: training code; a sweep starts runs and reads what they write.
"""

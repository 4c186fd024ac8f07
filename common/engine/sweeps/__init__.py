"""Sweeps over settings of a config with Optuna: one study an arm, every trial a run of its own."""

"""What takes too long for every change: `make faults` runs it after `tests/faults`."""

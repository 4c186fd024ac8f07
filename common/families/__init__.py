"""What projects of one kind share: experiment, data, evaluation."""

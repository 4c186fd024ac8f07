"""What a family of projects shares, as plain functions: experiment, data parts, evaluation.

Never here: base classes, a single project's option; a family enters with its second user.
"""

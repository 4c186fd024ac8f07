"""Rows in, rows out: long offline stages that can be killed, continued and shared among machines.

Never here: a prompt or a filter of a project, models themselves (`decoding`, `encoders`).
"""

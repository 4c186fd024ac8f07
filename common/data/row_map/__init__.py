"""Rows in, rows out: long offline stages that can be killed, continued and shared among machines."""

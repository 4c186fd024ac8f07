"""Rows in, rows out: long offline stages that can be killed, continued and shared among machines.

Never here: what is done to a row (text generators: `decoding`; teachers: `evaluation`).
"""

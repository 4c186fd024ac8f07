"""Exports: folders that other libraries load.

Never here: training state; nothing is read but our own exports and public formats.
"""

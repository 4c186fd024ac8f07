"""Lidar."""

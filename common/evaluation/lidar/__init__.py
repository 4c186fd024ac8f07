"""Detection with rotated boxes, forecasts of scans.

Never here: detection heads (`encoders/lidar`).
"""

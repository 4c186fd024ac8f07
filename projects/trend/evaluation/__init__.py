"""Detection with rotated boxes, and forecasts of scans."""

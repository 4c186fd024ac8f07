"""Readers of LiDAR sets, poses, rays, a simulator, sequences and their augmentation.

Never here: voxels and sparse networks (`encoders/lidar`).
"""

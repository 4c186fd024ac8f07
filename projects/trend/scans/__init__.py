"""LiDAR scans: readers, poses, rays, a simulator, sequences and their augmentation."""

"""Points to voxels to features: sparse convolutions, bird's-eye views, rendering, detection heads.

Never here: readers and poses (`data/lidar`).
"""

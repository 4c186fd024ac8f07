"""Points to features: voxels, sparse convolutions, bird's-eye views, rendering, heads."""

"""Points to voxels to features: sparse convolutions, bird's-eye views, rendering, detection heads."""

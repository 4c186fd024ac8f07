"""Parts of the detector: windowed ViT, pyramid, RoIAlign, box head, localisation RPN, box AP."""

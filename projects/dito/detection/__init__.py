"""Parts of the detector: windowed ViT, feature pyramid, RoIAlign, box head, localisation RPN, box AP."""

"""Image towers: torchvision, timm, a small conv net, a ViT.

Never here: augmentation (`data/image`).
"""

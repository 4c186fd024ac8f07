"""Image encoders: torchvision, timm, small convolutional networks, a ViT."""

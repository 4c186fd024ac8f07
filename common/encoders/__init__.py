"""Encoders: thin adapters from open_clip, timm, torchvision and transformers to (B, D)."""

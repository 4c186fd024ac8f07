"""A decoder turned into an instructed encoder with latent attention, and its export."""

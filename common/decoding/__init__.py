"""Text from language models, local or on a server: policies and contrastive methods."""

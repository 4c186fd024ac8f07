"""Text from language models, local or behind a server: policies, contrastive methods, seeded streams.

Never here: training, contrastive losses.
"""

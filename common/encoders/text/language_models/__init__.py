"""Language models as encoders: causal backbones, instructions, prompts, weights of next tokens.

Never here: encoders of the BERT kind, and generation of texts.
"""

"""Language models that read pictures: Perceiver resampler, gated cross-attention, its injection.

Never here: label masks and documents (`data/image_text`), losses, generation policies (`decoding`).
"""

"""Parts of detectors: feature pyramid, RoIAlign over levels, box head, localisation RPN, box targets.

Never here: reading annotations (`data`), average precision (`evaluation`), image towers
(`encoders/image`).
"""

"""Zero-shot classification and the image sets that it is measured on."""

"""Losses besides the contrast: tokens, teachers, class vectors, VICReg."""

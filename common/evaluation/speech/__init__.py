"""Error rates and continual-learning measures of speech.

Never here: beam search (`encoders/speech`).
"""

"""Ids of the special tokens of speech sequence models; nothing here imports torch."""

PAD, UNK, SOS, EOS, SEP, FILL = range(6)
SPECIAL = ("_PAD", "_UNK", "_SOS", "_EOS", "_SEP", "_FILL")

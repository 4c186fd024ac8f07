"""Speech recognition: encoder-decoder, beam search, error rates, exported recogniser."""

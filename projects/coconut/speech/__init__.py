"""Speech recognition: the encoder-decoder, its beam search, error rates and the exported recogniser."""

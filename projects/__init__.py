"""One folder per paper; each composes common and never imports another."""

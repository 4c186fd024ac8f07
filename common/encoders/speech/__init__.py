"""Speech encoders and an attention decoder with beam search."""

"""Books, and what can be read from them: decoding, walking, keeping in step with the venue."""

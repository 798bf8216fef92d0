"""Texts to vectors: the encoder in use as it is, without an output layer on top."""

"""How good an encoder is, and the encoder as a file of its own."""

"""SAM in Paddle, split in two: an encoder that sees an image once, a decoder that answers every prompt from what it saw."""

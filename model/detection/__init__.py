"""From words to boxes: PaddleX's detectors, run by Paddle's inference engine from their inference directories."""

"""PaddleX's surface: models, prompts, results."""

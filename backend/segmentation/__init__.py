"""From embeddings and prompts to regions."""

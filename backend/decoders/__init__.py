"""The decoders that were fine-tuned for projects: kept, chosen, and trained."""

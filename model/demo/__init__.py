"""The model that ships, for trying things out: its scenes, its training, its weights and its judge."""

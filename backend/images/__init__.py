"""Fetches and decodes images: from an address to pixels."""

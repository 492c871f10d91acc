"""Masks as COCO keeps them: run-length encoding and files."""

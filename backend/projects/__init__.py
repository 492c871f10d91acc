"""Runs over whole projects: precompute, preannotate, COCO export and fine-tuning."""

"""Runs over whole projects: precompute, preannotate and COCO export."""

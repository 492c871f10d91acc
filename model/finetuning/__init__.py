"""Fine-tunes the mask decoder on annotated images; the image encoder stays as it is."""

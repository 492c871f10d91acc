"""A Label Studio with sample images and this backend, for trying it out."""

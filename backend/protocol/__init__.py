"""Label Studio's JSON to values and back."""

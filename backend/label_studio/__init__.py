"""Label Studio's REST API."""

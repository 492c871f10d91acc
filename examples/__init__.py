"""Programs to copy from: the model and the service's parts in Python, without Label Studio; see README.md."""

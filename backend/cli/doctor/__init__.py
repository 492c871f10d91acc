"""``python -m backend doctor``: examines an installation."""

"""From an image to its embedding on worker processes, with the shared state in Redis.

Every method that talks to Redis raises `backend.errors.RetryLater` (``store_unavailable``) while Redis cannot be
reached or refuses, unless its docstring says otherwise.
"""

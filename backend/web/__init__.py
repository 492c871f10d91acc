"""HTTP: routes, access, the server."""

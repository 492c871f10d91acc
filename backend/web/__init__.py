"""HTTP: routes, access, pages, and the server."""

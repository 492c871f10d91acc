"""Checks whether the service on this machine is up, for a container's health check."""

import http.client

PATH = "/health"
TIMEOUT_S = 5.0
EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only looked up


def is_up(host: str, port: int) -> bool:
    """Return whether a service that listens on this address answers; the request never uses a proxy."""
    connection = http.client.HTTPConnection(EVERY_ADDRESS.get(host, host), port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", PATH)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

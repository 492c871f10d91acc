"""Which certificate authorities every connection of this program trusts, and what a refused certificate means.

``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` (directories, by colon) are OpenSSL's variables, ``REQUESTS_CA_BUNDLE`` (a file
or a directory) is that of Python's requests. Where one is set, what it names replaces the public authorities of
certifi, as it does there. All three together count as one list.
"""

import functools
import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")

_NOT_IN_TIME = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


class CertificatesError(ValueError):
    """A variable names no certificates; the message is one line: the variable, its value and what was expected."""


def problems(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return one line for each variable that names no certificates; what was read serves `client_context`."""
    given, texts = _given(environ), []
    with suppress(CertificatesError):
        if given:
            _context(given)
        return ()
    for name, path in given:
        try:
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), name, path)
        except CertificatesError as error:
            texts.append(str(error))
    return tuple(texts)


def client_context(environ: Mapping[str, str] | None = None) -> ssl.SSLContext:
    """Return how connections are secured; one and the same for the same variables, safe from many threads.

    Args:
        environ: the environment; None for that of this process.

    Raises:
        CertificatesError: a variable names no certificates.
    """
    return _context(_given(os.environ if environ is None else environ))


def refusal(error: BaseException) -> str | None:
    """Return why a server's certificate was refused and what to change, None if an error is about something else.

    Args:
        error: of a connection; what caused it is looked at too.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    message = f"its certificate is refused: {cause.verify_message}"
    if cause.verify_code in _NOT_IN_TIME:
        return f"{message}; renew it on that server, and see whether this machine's clock is right"
    if cause.verify_code in _OTHER_NAME:
        return f"{message}; use the name that the certificate is for, or have one made for this name"
    return f"{message}; set SSL_CERT_FILE to a PEM file with the certificate of the authority (CA) that signed it"


def _given(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, environ[name].strip()) for name in VARIABLES if environ.get(name, "").strip())


@functools.lru_cache(maxsize=4)
def _context(given: tuple[tuple[str, str], ...]) -> ssl.SSLContext:
    if given:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for name, path in given:
            _load(context, name, path)
    else:
        import httpx  # here: it takes a tenth of a second, for which --help must not wait

        context = httpx.create_ssl_context(trust_env=False)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, name: str, path: str) -> None:
    """Trust the certificates in a file, or in the files of directories, whether or not their names are hashes.

    Of several directories those that are there count, as OpenSSL has it.
    """
    wanted = {"SSL_CERT_FILE": "a file of certificates (PEM)", "SSL_CERT_DIR": "a directory of certificates (PEM)"}
    expected = wanted.get(name, "a file or a directory of certificates (PEM)")
    paths = [Path(part).expanduser() for part in (path.split(os.pathsep) if name == "SSL_CERT_DIR" else [path])]
    folders = [candidate for candidate in paths if candidate.is_dir()] if name != "SSL_CERT_FILE" else []
    try:
        if folders:
            files = [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
            loaded = [_is_loaded(context, file) for file in files]
            cause = "" if any(loaded) else "no file in it is one"
        elif name != "SSL_CERT_DIR":
            context.load_verify_locations(cafile=paths[0])
            cause = ""
        else:
            cause = "there is no such directory"
    except ssl.SSLError:
        cause = "it is something else"
    except OSError as error:
        cause = str(error.strerror)
    if cause:
        raise CertificatesError(f"{name}={path[:200]!r}: expected {expected}, but: {cause}")


def _is_loaded(context: ssl.SSLContext, file: Path) -> bool:
    try:
        context.load_verify_locations(cafile=file)
    except (ssl.SSLError, OSError):
        return False
    return True

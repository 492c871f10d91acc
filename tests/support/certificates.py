"""Certificates of a company's own authority (CA), made for one test run."""

import datetime
import ssl
from dataclasses import dataclass

import trustme


@dataclass
class Company:
    """An authority, and how servers on loopback are secured with certificates that it signed."""

    authority: trustme.CA

    def server(self, *names, not_after=None):
        """The server's side of a connection, for names or numeric addresses."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*(names or ("localhost", "127.0.0.1")), not_after=not_after).configure_cert(context)
        return context

    def expired(self):
        """The same with a certificate of long ago."""
        return self.server(not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc))

    def write(self, file):
        """Write the authority's certificate as PEM."""
        self.authority.cert_pem.write_to_path(str(file))
        return file


def company():
    """A new authority."""
    return Company(trustme.CA())

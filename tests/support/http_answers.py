"""Answers in HTTP as they come from all sorts of servers, what Chromium makes of each, and a server that gives them.

`SHOWN` are those whose picture Chromium 156 shows in an ``<img>``, `NOT_SHOWN` the others; tests/e2e asks a real one.
"""

import gzip
import socket
import socketserver
import threading
import zlib

from tests.support.fakes import png

IMAGE = png((10, 120, 40), (64, 48))


def answer(headers=b"", body=IMAGE, status=b"HTTP/1.1 200 OK", *, length=True, end=b"\r\n"):
    """A whole answer, head and body."""
    fields = b"Content-Type: image/png\r\nConnection: close\r\n"
    fields += b"Content-Length: %d\r\n" % len(body) if length else b""
    return (status + b"\r\n" + fields + headers + b"\r\n").replace(b"\r\n", end) + body


def chunked(line=b"%x\r\n", end=b"\r\n", last=b"0\r\n\r\n", headers=b"Transfer-Encoding: chunked\r\n", size=50):
    """An answer in chunks."""
    parts = [IMAGE[at : at + size] for at in range(0, len(IMAGE), size)]
    return answer(headers, b"".join(line % len(part) + part + end for part in parts) + last, length=False)


def coded(name, body):
    """An answer with a content-encoding."""
    return answer(b"Content-Encoding: " + name + b"\r\n", body)


def bare_deflate(data):
    """Deflate without zlib's frame, as many servers send it."""
    compress = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compress.compress(data) + compress.flush()


def found_at(location):
    """A redirect."""
    return b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


ZIPPED = gzip.compress(IMAGE)
WITH_NAME = ZIPPED[:3] + b"\x18" + ZIPPED[4:10] + b"a.png\0said\0" + ZIPPED[10:]
BAD_CHECKSUM = ZIPPED[:-8] + bytes(4) + ZIPPED[-4:]
LENGTH = b"Content-Length: %d\r\n" % len(IMAGE)

SHOWN = {
    "plain": answer(),
    # content-encoding
    "gzip": coded(b"gzip", ZIPPED),
    "x-gzip": coded(b"x-gzip", ZIPPED),
    "gzip-in-capitals": coded(b"GZIP", ZIPPED),
    "gzip-with-a-name": coded(b"gzip", WITH_NAME),
    "gzip-of-wrong-checksum": coded(b"gzip", BAD_CHECKSUM),
    "gzip-without-its-end": coded(b"gzip", ZIPPED[:-8]),
    "gzip-and-more": coded(b"gzip", ZIPPED + b"more"),
    "gzip-twice": coded(b"gzip, gzip", gzip.compress(ZIPPED)),
    "gzip-then-deflate": answer(b"Content-Encoding: gzip\r\nContent-Encoding: deflate\r\n", zlib.compress(ZIPPED)),
    "deflate": coded(b"deflate", zlib.compress(IMAGE)),
    "deflate-bare": coded(b"deflate", bare_deflate(IMAGE)),
    "identity": coded(b"Identity", IMAGE),
    "aws-chunked": coded(b"aws-chunked", IMAGE),
    "utf-8": coded(b"utf-8", IMAGE),
    "binary": coded(b"binary", IMAGE),
    "none": coded(b"none", IMAGE),
    "nothing": coded(b"", IMAGE),
    "made-up": coded(b"made-up", IMAGE),
    "compress-that-is-none": coded(b"compress", IMAGE),
    # statuses
    **{str(status): answer(status=b"HTTP/1.1 %d X" % status) for status in (201, 202, 203, 206, 299)},
    "no-reason": answer(status=b"HTTP/1.1 200"),
    "two-blanks-in-status": answer(status=b"HTTP/1.1  200 OK"),
    "http-in-small-letters": answer(status=b"http/1.1 200 OK"),
    "http-1.0": answer(status=b"HTTP/1.0 200 OK"),
    "http-of-no-version": answer(status=b"HTTP 200 OK"),
    "empty-line-first": b"\r\n" + answer(),
    "continue-first": b"HTTP/1.1 100 Continue\r\n\r\n" + answer(),
    "hints-first": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(),
    # header lines
    "blank-before-colon": answer(b"X-Powered-By : old-nas\r\n"),
    "blank-before-colon-of-coding": answer(b"Content-Encoding : gzip\r\n", ZIPPED),
    "blank-before-colon-then-chunks": chunked(headers=b"X-A : b\r\nTransfer-Encoding: chunked\r\n"),
    "no-colon": answer(b"garbage\r\n"),
    "no-name": answer(b": nothing\r\n"),
    "control-character": answer(b"X-A: a\x01b\r\n"),
    "latin-1": answer(b"X-\xe4: \xe4\r\n"),
    "blank-in-name": answer(b"X a: 1\r\n"),
    "brackets-in-name": answer(b"X(a): 1\r\n"),
    "folded": answer(b"X-A: a\r\n  b\r\n"),
    "bare-line-feeds": answer(end=b"\n"),
    "long-header": answer(b"X-A: " + b"a" * 100_000 + b"\r\n"),
    # bodies
    "chunks": chunked(),
    "chunks-in-capitals": chunked(headers=b"Transfer-Encoding: Chunked\r\n"),
    "chunks-named-twice": chunked(headers=2 * b"Transfer-Encoding: chunked\r\n"),
    "chunks-and-gzip": chunked(headers=b"Transfer-Encoding: gzip, chunked\r\n"),
    "chunks-and-length": chunked(headers=b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
    "chunks-with-blanks": chunked(b"%x  \r\n"),
    "chunks-with-extension": chunked(b"%x;a=b\r\n"),
    "chunks-with-zeros": chunked(b"%08x\r\n"),
    "chunks-of-bare-line-feeds": chunked(b"%x\n", b"\n", b"0\n\n"),
    "chunks-with-trailer": chunked(last=b"0\r\nX-A: b\r\n\r\n"),
    "transfer-identity": answer(b"Transfer-Encoding: identity\r\n", length=False),
    "no-length": answer(length=False),
    "length-that-is-no-number": answer(b"Content-Length: abc\r\n", length=False),
    "negative-length": answer(b"Content-Length: -5\r\n", length=False),
    "length-twice": answer(LENGTH),
    "length-of-what-is-unzipped": answer(b"Content-Encoding: gzip\r\n" + LENGTH, ZIPPED, length=False),
    # redirects; where they lead is "plain"
    "to-plain": found_at(b"/plain"),
    "to-relative": found_at(b"plain"),
    "to-dots": found_at(b"./../plain"),
    "to-blanks-around": found_at(b"  /plain  "),
    "to-tab-within": found_at(b"/pl\tain"),
    "to-fragment": found_at(b"/plain#x"),
    "to-backslash": found_at(rb"\plain"),
    "to-one-slash": found_at(b"http:/plain"),
    "to-no-slash": found_at(b"http:plain"),
    "to-the-same-twice": found_at(b"/plain\r\nLocation: /plain"),
    "to-blank-within": found_at(b"/a b"),
    "to-latin-1": found_at(b"/\xe4"),
    "to-utf-8": found_at("/ä".encode()),
    **{name: answer() for name in ("a%20b", "%E4", "%C3%A4")},
}

NOT_SHOWN = {
    "gzip-that-is-none": coded(b"gzip", IMAGE),
    "brotli": coded(b"br", b"\x0b\x02\x80abc\x03"),
    "zstd": coded(b"zstd", b"\x28\xb5\x2f\xfd\x00\x00"),
    "compress": coded(b"compress", b"\x1f\x9d\x90abc"),
    "204": answer(status=b"HTTP/1.1 204 No Content"),
    "205": answer(status=b"HTTP/1.1 205 Reset Content"),
    "empty-206": answer(body=b"", status=b"HTTP/1.1 206 Partial Content"),
    "several-lengths": answer(b"Content-Length: 5\r\n"),
    "chunks-in-0x": chunked(b"0x%x\r\n"),
    "chunks-of-nonsense": chunked(b"zz%x\r\n"),
    "negative-chunks": chunked(b"-%x\r\n"),
    "zero-byte-in-header": answer(b"X-A: a\0b\r\n"),
    "head-of-300-kB": answer(b"X-A: " + b"a" * 300_000 + b"\r\n"),
    "no-http": b"220 ftp.example.com ready\r\n" + IMAGE,
    "an-image-alone": IMAGE,
    "icy": answer(status=b"ICY 200 OK"),
    "to-bad-ipv6": found_at(b"http://[::1/x"),
    "to-bad-port": found_at(b"http://localhost:99999/x"),
    "to-port-of-letters": found_at(b"http://localhost:abc/x"),
    "to-no-host": found_at(b"http://"),
    "to-nothing": found_at(b""),
    "to-ftp": found_at(b"ftp://localhost/x"),
    "to-file": found_at(b"file:///etc/passwd"),
    "to-data": found_at(b"data:image/gif;base64,R0lGODlhAQABAAAAACw="),
    "to-script": found_at(b"javascript:1"),
    "to-several": found_at(b"/plain\r\nLocation: /a%20b"),
    "to-something-long": found_at(b"/" + b"a" * 70_000),
}

UNENDING = {
    "chunks-without-the-last": chunked(last=b""),
    "length-of-7-too-many": answer(b"Content-Length: %d\r\n" % (len(IMAGE) + 7), length=False),
}
"""Chromium shows none of these, other viewers do; the image in them is whole by its own format."""

ANSWERS = {**SHOWN, **NOT_SHOWN, **UNENDING}


class AnswerServer:
    """Gives `ANSWERS` by their names on loopback.

    Attributes:
        asked: the paths, each with the lines of its request.
    """

    def __init__(self, host="127.0.0.1", tls=None, answers=ANSWERS, name="localhost"):
        self.requests, self._name, self._scheme = [], name, "http" if tls is None else "https"
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            timeout = 120  # a browser on a loaded machine sends its request long after it has connected

            def handle(self):
                try:
                    lines = [self.rfile.readline()]
                    while (line := self.rfile.readline()) not in (b"\r\n", b"\n", b""):
                        lines.append(line)
                    path = lines[0].split()[1].decode() if lines[0] else ""
                    outer.requests.append((path, [line.decode("latin-1").strip() for line in lines]))
                    reply = answers.get(path.lstrip("/"), answer(body=b"", status=b"HTTP/1.1 404 Not Found"))
                    self.wfile.write(reply(lines) if callable(reply) else reply)
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # the client has hung up, as some tests want it to

        class Server(socketserver.ThreadingTCPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads, allow_reuse_address, request_queue_size = True, True, 200

            def get_request(self):
                connection, address = super().get_request()
                if tls is not None:  # hands are shaken at the first read, on the connection's own thread
                    connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                return connection, address

        self._server = Server((host, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self):
        return self._server.server_address[1]

    @property
    def url(self):
        return f"{self._scheme}://{self._name}:{self.port}"

    def headers(self):
        """The header lines of the last request, names in small letters."""
        pairs = (line.partition(":") for line in self.requests[-1][1][1:])
        return {name.lower(): value.strip() for name, _, value in pairs}

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""A TCP relay on loopback that delays answers."""

import contextlib
import socket
import threading


class SlowProxy:
    """Relays connections to a port of this machine.

    Attributes:
        delay_s: for how long each piece of an answer is held back; may be changed at any time.
    """

    def __init__(self, target_port):
        self.target_port, self.delay_s = target_port, 0.0
        self._stopped = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets, self._threads = [self._server], []

    @property
    def port(self):
        return self._server.getsockname()[1]

    def __enter__(self):
        self._run(self._accept)
        return self

    def __exit__(self, *exc):
        self._stopped.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(5)

    def _run(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while not self._stopped.is_set():
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                return
            self._sockets += [near, far]
            self._run(self._relay, near, far, False)
            self._run(self._relay, far, near, True)

    def _relay(self, source, target, is_answer):
        try:
            while data := source.recv(65536):
                if is_answer and self.delay_s:
                    self._stopped.wait(self.delay_s)
                target.sendall(data)
        except OSError:
            pass
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

"""One request over http or https, and nothing else, that is over in a given time.

A time-out of a socket is between two bytes: a server that sends one every few seconds would keep
a download alive for years. So the connection is cut when its time is over.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator


class TooSlow(OSError):
    """The time of a whole request is over."""


@contextlib.contextmanager
def opened(url: str, timeout: float, seconds: float) -> Iterator[http.client.HTTPResponse]:
    """The answer to a request; redirections stay in http and https.

    Args:
        url: What is asked for.
        timeout: Seconds without a byte.
        seconds: For the whole, until the context is left.

    Raises:
        TooSlow: If the time is over, in the context as well, whatever was raised there.
        OSError, http.client.HTTPException: If the request fails.
    """
    cut = _Cut()
    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    request = urllib.request.Request(url, headers={"User-Agent": "deformation-zoo"})
    try:
        with _opener(cut).open(request, timeout=timeout) as response:
            yield response
            # A connection that was cut reads like one that has ended.
            if cut.done:
                raise TooSlow(url)
    except Exception as error:
        if cut.done:
            raise TooSlow(url) from error
        raise
    finally:
        timer.cancel()
        cut.close()


class _Cut:
    """Ends the connections of a request, each of its redirections among them."""

    def __init__(self):
        self.done = False
        self.sockets: list[socket.socket] = []

    def add(self, connected: socket.socket):
        # A copy, as the handshake of https takes the connection out of the socket.
        self.sockets.append(connected.dup())
        if self.done:
            self()

    def close(self):
        for each in self.sockets:
            each.close()

    def __call__(self):
        self.done = True
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _opener(cut: _Cut) -> urllib.request.OpenerDirector:
    # Not `build_opener`, which also opens file: and ftp:, to which a server may redirect.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Plain(cut),
        _Secure(cut),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _watched(connection: type, cut: _Cut):
    class Watched(connection):
        # Set before anything is received, be it of a proxy, a handshake or an answer.
        @property
        def sock(self):
            return self._watched

        @sock.setter
        def sock(self, connected):
            self._watched = connected
            if connected is not None and not isinstance(connected, ssl.SSLSocket):
                cut.add(connected)

    return Watched


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, cut: _Cut):
        super().__init__()
        self.cut = cut

    def http_open(self, request):
        return self.do_open(_watched(http.client.HTTPConnection, self.cut), request)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, cut: _Cut):
        super().__init__()
        self.cut = cut

    def https_open(self, request):
        kind = _watched(http.client.HTTPSConnection, self.cut)
        return self.do_open(kind, request, context=self._context)

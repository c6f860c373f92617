"""HTTP with a deadline for the whole answer."""

import http.client
import io

import requests
import urllib3

from serving.transport.deadline import Deadline


class TimelyAdapter(requests.adapters.HTTPAdapter):
    """For `requests.Session.mount`: when the timeout of a request has passed, all of the answer is here, or it is late.

    The timeout of requests starts anew with every packet: a server that drips, headers or body, would never be late.
    Behind a SOCKS proxy, whose connections are of other classes, it stays so.

    Example:

    >>> session.mount("http://", TimelyAdapter(max_retries=0))
    >>> session.get("http://127.0.0.1:8501/v1/models/ctr", timeout=urllib3.Timeout(total=5.0))
    """

    def init_poolmanager(self, *arguments, **options):
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy, **options):
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager


class _Reader(io.RawIOBase):
    """Reads what a socket receives until its timeout, counted from now, has passed."""

    def __init__(self, sock, raw):
        self._sock = sock
        self._raw = raw
        self._deadline = Deadline(sock.gettimeout())

    def readable(self):
        return True

    def readinto(self, buffer):
        if self._deadline.is_over():
            raise TimeoutError
        self._sock.settimeout(self._deadline.remaining())
        return self._raw.readinto(buffer)

    def close(self):
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock, *arguments, **options):
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_Reader(sock, self.fp.detach()))


class _Connection(urllib3.connection.HTTPConnection):
    response_class = _Response


class _TlsConnection(urllib3.connection.HTTPSConnection):
    response_class = _Response


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS = {"http": _Pool, "https": _TlsPool}

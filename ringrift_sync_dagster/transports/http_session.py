"""The HTTP session of one agent: its one certificate or none, and nothing that the environment or a server adds."""

from __future__ import annotations

import contextlib
import socket
import threading
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from itertools import chain
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.poolmanager import PoolManager

_CONNECTIONS: Final = 8
_ADDRESSES: Final = 4
_LATE: Final = "the head of the answer did not come in time"


class _Bounded:
    """A connection whose read timeout bounds the head of an answer as a whole, and not each silence in it.

    Whoever sends a head byte by byte would otherwise hold a request for hours: no deadline is looked at meanwhile.
    """

    sock: Any
    timeout: Any

    def getresponse(self) -> Any:  # noqa: ANN401 - whatever the connection below gives
        """Give the answer once its head is there; a TimeoutError where that takes too long."""
        if not isinstance(self.timeout, int | float) or self.sock is None:
            return super().getresponse()  # type: ignore[misc]
        late, sock = threading.Event(), self.sock

        def cut() -> None:
            late.set()
            with contextlib.suppress(OSError, ValueError):
                sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self.timeout, cut)
        timer.daemon = True
        timer.start()
        try:
            found = super().getresponse()  # type: ignore[misc]
        except Exception as error:
            if late.is_set():
                raise TimeoutError(_LATE) from error
            raise
        finally:
            timer.cancel()
        if late.is_set():  # what was cut off looks like a head that ended
            found.close()
            raise TimeoutError(_LATE)
        return found


def _bound(manager: PoolManager) -> PoolManager:
    """Have a manager make its connections so; it has classes of its own for each proxy."""
    kinds: dict[str, Any] = dict(manager.pool_classes_by_scheme)
    manager.pool_classes_by_scheme = {scheme: _bounded_pool(kind) for scheme, kind in kinds.items()}
    return manager


@cache
def _bounded_pool(kind: Any) -> Any:  # noqa: ANN401 - a class of urllib3's
    connection = type(kind.ConnectionCls.__name__, (_Bounded, kind.ConnectionCls), {})
    return type(kind.__name__, (kind,), {"ConnectionCls": connection})


class _PinnedAdapter(HTTPAdapter):
    """Accepts exactly one certificate, by its SHA-256; names and authorities do not matter then."""

    def __init__(self, fingerprint: str) -> None:
        self._pin: dict[str, Any] = {"assert_fingerprint": fingerprint} if fingerprint else {}
        super().__init__(pool_connections=_ADDRESSES, pool_maxsize=_CONNECTIONS, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - requests' own signature
        kwargs |= self._pin
        super().init_poolmanager(*args, **kwargs)
        _bound(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> PoolManager:  # noqa: ANN401 - requests' own signature
        is_new = proxy not in self.proxy_manager
        manager: PoolManager = super().proxy_manager_for(proxy, **kwargs, **self._pin)
        return _bound(manager) if is_new else manager

    def close(self) -> None:
        """Close the connections now: urllib3 would leave that to the garbage collector."""
        for manager in chain([self.poolmanager], self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - urllib3's container cannot be iterated
                if (pool := manager.pools.get(key)) is not None:
                    pool.close()
        super().close()


def new_session(fingerprint: str) -> requests.Session:
    """Give a session that ignores proxies and passwords of the environment, and takes no cookies.

    Args:
        fingerprint: SHA-256 of the certificate that every TLS connection must show; empty when plain HTTP is spoken.

    """
    session = requests.Session()
    session.trust_env = False
    session.verify = False  # the pin is stricter: this one certificate
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        session.mount(scheme, _PinnedAdapter(fingerprint))
    return session

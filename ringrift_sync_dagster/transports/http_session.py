"""The HTTP session of one agent: its one certificate or none, and nothing that the environment or a server adds."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from itertools import chain
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.poolmanager import PoolManager

_CONNECTIONS: Final = 8
_ADDRESSES: Final = 4


class _PinnedAdapter(HTTPAdapter):
    """Accepts exactly one certificate, by its SHA-256; names and authorities do not matter then."""

    def __init__(self, fingerprint: str) -> None:
        self._pin: dict[str, Any] = {"assert_fingerprint": fingerprint} if fingerprint else {}
        super().__init__(pool_connections=_ADDRESSES, pool_maxsize=_CONNECTIONS, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - requests' own signature
        kwargs |= self._pin
        super().init_poolmanager(*args, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> PoolManager:  # noqa: ANN401 - requests' own signature
        manager: PoolManager = super().proxy_manager_for(proxy, **kwargs, **self._pin)
        return manager

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

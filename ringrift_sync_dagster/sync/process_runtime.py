"""The one runtime of a program that uses the guide's functions; opened when the first of them is called.

The settings are those of that moment. Programs that open and close their own use ``Runtime.open`` instead.
"""

from __future__ import annotations

import atexit
import functools
import threading
from contextlib import ExitStack
from typing import Final

from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.sync.runtime import Runtime

_LOCK: Final = threading.Lock()


def shared_runtime() -> Runtime:
    """Give the runtime of this program's settings; it is closed when the program ends.

    Raises:
        ConfigError: The settings or the inventory are wrong.
        StateError: The state database cannot be used.

    """
    with _LOCK:  # the first callers may be several threads
        return _opened()


@functools.lru_cache(maxsize=1)
def _opened() -> Runtime:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(Runtime.open(load_settings()))

"""Fields of what nodes answer: each is held against its type and range before anything believes it.

The readers raise KeyError, TypeError or ValueError; ``makes_sense`` turns these into a TransferError of the node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ringrift_sync_dagster.core.model import SHA256, Artifact
from ringrift_sync_dagster.errors import TransferError
from ringrift_sync_dagster.node import cursor as cursors
from ringrift_sync_dagster.node.packfile import RAW_LIMIT_BYTES

INTEGERS: Final = 1 << 63
PATH_CHARS: Final = 4096
ID_CHARS: Final = 1024
WAITING: Final = 2 * cursors.WAITING_LIMIT
TEXT_CHARS: Final = 500  # of a sentence for people; longer ones are cut
_WARNINGS: Final = 20


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose answer it is, and about what: for messages.

    Args:
        node: The node.
        transport: What carried the answer.
        what: The file, or the kind of answer.

    """

    node: str
    transport: str
    what: str

    def error(self, message: str) -> TransferError:
        """Give the error about this answer."""
        return TransferError(self.node, self.transport, f"{self.what}: {message}")


@contextlib.contextmanager
def makes_sense(sender: Sender) -> Iterator[None]:
    """Turn what the readers of fields raise into the error of this answer."""
    try:
        yield
    except KeyError as error:
        raise sender.error(f"its answer makes no sense: {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise sender.error(f"its answer makes no sense: {error}") from error
    except RecursionError as error:
        raise sender.error("its answer makes no sense: it is nested too deeply") from error


def path_of(value: object) -> str:
    """A path below a node's root, as a node names its files."""
    path = text(value, "a path", PATH_CHARS)
    if not path or "\0" in path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"{path!r:.200} is no path under a node's root")
    return path


def text(value: object, name: str, at_most: int) -> str:
    """Text that every database takes: valid Unicode without NUL, of bounded length."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text: {value!r:.100}")
    if len(value) > at_most or "\0" in value or not _is_unicode(value):
        raise ValueError(f"{name} is no usable text: {value!r:.100}")
    return value


def sentence(value: object) -> str:
    """Text for people: cut, and made valid."""
    return str(value)[:TEXT_CHARS].encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


def _is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def whole(value: object, name: str, *, least: int = 0) -> int:
    """A whole number that a database takes."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is no whole number: {value!r:.100}")
    if not least <= value < INTEGERS:
        raise ValueError(f"{name} cannot be {value!r:.100}" if value.bit_length() < PATH_CHARS else f"{name} is huge")
    return value


def flag(mapping: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false."""
    value = mapping[name]
    if not isinstance(value, bool):
        raise TypeError(f"{name} is neither true nor false: {value!r:.100}")
    return value


def one_of(mapping: Mapping[str, Any], name: str, words: Collection[str]) -> str:
    """A field that is one of a few words."""
    value = mapping[name]
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} is none of {', '.join(words)}: {value!r:.100}")
    return value


def list_of(value: object, name: str, at_most: int | None = None) -> list[Any]:
    """A list, of a bounded length."""
    if not isinstance(value, list):
        raise TypeError(f"{name} is no list: {value!r:.100}")
    if at_most is not None and len(value) > at_most:
        raise ValueError(f"{name} has {len(value)} items, more than {at_most}")
    return value


def ids_of(value: object, name: str) -> tuple[str, ...]:
    """A list of ids of games."""
    return tuple(text(item, f"an id of {name}", ID_CHARS) for item in list_of(value, name, WAITING))


def warnings(value: object) -> tuple[str, ...]:
    """The first sentences of a list for people."""
    return tuple(sentence(item) for item in list_of(value, "warnings")[:_WARNINGS])


def artifact_of(result: Mapping[str, Any], kind: str) -> Artifact | None:
    """The artifact that a node made; None where there was nothing to make."""
    sha256 = result["artifact"]
    if sha256 is None:
        return None
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise ValueError(f"artifact is no SHA-256: {sha256!r:.100}")
    for name in ("bytes", "raw_bytes"):
        if not 0 < whole(result[name], name) <= RAW_LIMIT_BYTES:
            raise ValueError(f"no pack has {result[name]} {name}; {RAW_LIMIT_BYTES} are the limit")
    return Artifact(sha256, result["bytes"], kind)

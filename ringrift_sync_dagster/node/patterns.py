"""Which files of a node are ours, of which data type and kind, and which board configuration they hold.

Pure text: no file is touched. The folders and names are those of the cluster (one catalogue for every reader, because
a folder that one reader forgets is data that nobody can reach).
"""

from __future__ import annotations

import functools
import re
from typing import Dict, FrozenSet, NamedTuple, Optional, Pattern, Sequence, Tuple

BOARDS: Tuple[str, ...] = ("hex8", "square8", "square19", "hexagonal")
PLAYERS: Tuple[int, ...] = (2, 3, 4)
CONFIGS: Tuple[str, ...] = tuple(f"{board}_{players}p" for board in BOARDS for players in PLAYERS)
DATA_TYPES: Tuple[str, ...] = ("games", "npz", "models", "elo", "registry")

BOARD_ALIASES: Dict[str, str] = {
    "sq8": "square8",
    "sq19": "square19",
    "hex": "hexagonal",
    "full_hex": "hexagonal",
    "full_hexagonal": "hexagonal",
}

# Kinds that feed the owner's canonical files. A node's own canonical files leave it only in recovery, evaluation
# games are no training data, JSONL is counted but not collected, and a promoted model comes from the owner.
COLLECTABLE: FrozenSet[Tuple[str, str]] = frozenset(
    {
        ("games", "selfplay"),
        ("games", "deep"),
        ("games", "received"),
        ("games", "imported"),
        ("npz", "export"),
        ("models", "candidate"),
        ("models", "checkpoint"),
        ("models", "nnue"),
        ("elo", "elo"),
        ("registry", "registry"),
    }
)

DATABASE_SUFFIXES: Tuple[str, ...] = (".db", ".sqlite", ".sqlite3")
MODEL_SUFFIXES: Tuple[str, ...] = (".pth", ".pt", ".onnx", ".nnue")
_IGNORED_SUFFIXES = ("-wal", "-shm", "-journal", ".tmp", ".part", ".writing")
_NOT_OURS = frozenset({"incoming", "quarantine", "registry_backups", "sync"})
_GAME_FOLDERS = frozenset({"games", "selfplay", "training"})
# Parts of a path: data/x.db, and with one folder between.
_TOP, _NESTED = 2, 3
_FOLDER_KINDS = {"synced": "received", "pulled": "received", "owc_imports": "imported"}

# Longest first: "hex" must not win where "hex8" or "hexagonal" stands.
_BOARD = "|".join(sorted((*BOARDS, *BOARD_ALIASES), key=len, reverse=True))
_NAME_FORMS: Tuple[Pattern[str], ...] = (
    re.compile(rf"(?<![a-z0-9])(?P<board>{_BOARD})[_-](?P<players>[234])p(?![a-z0-9])"),
    re.compile(rf"(?<![a-z0-9])(?P<players>[234])p[_-](?P<board>{_BOARD})(?![a-z0-9])"),
    re.compile(rf"(?<![a-z0-9])(?P<board>{_BOARD})[_-](?P<players>[234])(?![a-z0-9])"),
)
# What we installed ourselves is named by its content: data/training/hex8_2p.0123456789ab.npz, models/versions/...
_VERSION = re.compile(r"\.[0-9a-f]{12}\.npz$")
VERSIONS_FOLDER = "versions"
_EVALUATION = re.compile(r"(tournaments?|gauntlets?|baselines?|eval|evaluation)[_.-]")


class FileClass(NamedTuple):
    """What a file is: ``config`` is None where the name does not tell, as in a database of mixed games."""

    data_type: str
    kind: str
    config: Optional[str]
    collectable: bool

    @property
    def is_games_database(self) -> bool:
        """Tell whether the rows of this file are games."""
        return self.data_type == "games" and self.kind not in ("jsonl", "folder")

    @property
    def is_database(self) -> bool:
        """Tell whether this file is an SQLite database, which never travels as a file."""
        return self.is_games_database or self.data_type in ("elo", "registry")


def config_key(board: object, players: object) -> Optional[str]:
    """Give the key of a board and a number of players, as rows spell them; None where it is none of the twelve."""
    name = str(board).strip().lower().replace("-", "_").replace(" ", "_")
    try:
        whole = isinstance(players, float) and players.is_integer()
        count = None if isinstance(players, bool) else int(players if whole else str(players).strip())  # type: ignore[call-overload]
    except ValueError:
        return None
    key = f"{BOARD_ALIASES.get(name, name)}_{count}p"
    return key if key in CONFIGS else None


@functools.lru_cache(maxsize=4096)
def config_of_name(name: str) -> Optional[str]:
    """Find the configuration that a file or folder name tells: ``hex8_2p``, ``2p_hex8`` or the old ``hex8_2``."""
    text = name.lower()
    if "hex" not in text and "sq" not in text:
        return None  # What every board's name holds: this spares most file names the three searches.
    for form in _NAME_FORMS:
        found = form.search(text)
        if found:
            return config_key(found.group("board"), found.group("players"))
    return None


def is_ignored(name: str) -> bool:
    """Tell whether a file is bookkeeping by its name: hidden, partial, a sidecar of SQLite, a manifest, a schema."""
    text = name.lower()
    return name.startswith(".") or text.endswith(_IGNORED_SUFFIXES) or "manifest" in text or "schema" in text


@functools.lru_cache(maxsize=4096)
def may_hold_ours(folder: str, *, external: bool = False) -> bool:
    """Tell whether a folder (posix path relative to its root) is worth walking into.

    Args:
        folder: Relative path without a slash at either end.
        external: The root is extra storage, whose layout is its owner's; there every folder is walked.

    """
    parts = folder.split("/")
    if any(part.startswith(".") or part == "quarantine" for part in parts):
        return False
    if parts[0] == "data":
        return len(parts) == 1 or parts[1] in _GAME_FOLDERS or (len(parts) == _TOP and parts[1] not in _NOT_OURS)
    return parts[0] == "models" or (external and parts[0] not in _NOT_OURS)


def folder_class(folder: str) -> FileClass:
    """Give the class under which trouble with a whole folder is reported."""
    data_type = "models" if folder.startswith("models") else "npz" if folder.startswith("data/training") else "games"
    return FileClass(data_type, "folder", None, collectable=False)


def classify(path: str, *, external: bool = False) -> Optional[FileClass]:
    """Tell what a file is.

    Args:
        path: Posix path relative to its root.
        external: The root is extra storage: outside ``data/`` and ``models/`` a database is games, an array an
        export.

    Returns:
        None where the file is not ours or is to be ignored.

    """
    parts = path.split("/")
    if is_ignored(parts[-1]) or ".." in parts or "" in parts:
        return None
    folder = path[: -len(parts[-1]) - 1]
    if folder and not may_hold_ours(folder, external=external):
        return None
    found = _kind(parts, parts[-1].lower(), external=external)
    if found is None:
        return None
    data_type, kind = found
    config = None if data_type in ("elo", "registry") else config_of_name(parts[-1]) or _config_of_folder(folder)
    return FileClass(data_type, kind, config, collectable=found in COLLECTABLE)


@functools.lru_cache(maxsize=4096)
def _config_of_folder(folder: str) -> Optional[str]:
    """Ask the folders from the nearest up: many databases are all called ``games.db``."""
    return next(filter(None, map(config_of_name, reversed(folder.split("/")))), None)


def _kind(parts: Sequence[str], name: str, *, external: bool) -> Optional[Tuple[str, str]]:
    if parts[0] == "models":
        return _model_kind(parts, name)
    if parts[0] == "data" and len(parts) > 1:
        return _data_kind(parts, name)
    return _external_kind(parts, name) if external else None


def _data_kind(parts: Sequence[str], name: str) -> Optional[Tuple[str, str]]:
    if parts[1] in _GAME_FOLDERS and len(parts) > _TOP:
        if name.endswith(DATABASE_SUFFIXES):
            return ("games", _games_kind(parts, name))
        if name.endswith(".jsonl"):
            return ("games", "jsonl") if parts[1] != "training" else None
        return _npz_kind(name) if parts[1] == "training" else None
    if name == "unified_elo.db" and len(parts) == _TOP:
        return ("elo", "elo")
    return ("registry", "registry") if name == "registry.db" and len(parts) <= _NESTED else None


def _games_kind(parts: Sequence[str], name: str) -> str:
    """Name the kind of a games database; one with an unexpected name is still games."""
    if _EVALUATION.match(name):
        return "eval"
    if parts[1] != "games":
        return "deep"
    if len(parts) > _NESTED:
        return _FOLDER_KINDS.get(parts[2], "deep")
    return "canonical" if name.startswith(("canonical_", "canonical.")) else "selfplay"


def _npz_kind(name: str) -> Optional[Tuple[str, str]]:
    if not name.endswith(".npz"):
        return None
    if _VERSION.search(name):
        return ("npz", "version")
    return ("npz", "archived" if ".archived_" in name else "export")


def _model_kind(parts: Sequence[str], name: str) -> Optional[Tuple[str, str]]:
    if name == "registry.db":
        return ("registry", "registry") if len(parts) <= _NESTED else None
    if not name.endswith(MODEL_SUFFIXES):
        return None
    folders = parts[1:-1]
    kinds = (
        ("version", folders[:1] == [VERSIONS_FOLDER]),
        ("nnue", "nnue" in folders),
        ("checkpoint", name.startswith("checkpoint") or "checkpoints" in folders),
        ("candidate", name.startswith("candidate_")),
        # Only at the top do these two names mean what a player loads; deeper they are copies.
        ("canonical", not folders and name.startswith("canonical_")),
        ("best", not folders and name.startswith("ringrift_best_")),
        ("model", True),
    )
    return ("models", next(kind for kind, fits in kinds if fits))


def _external_kind(parts: Sequence[str], name: str) -> Optional[Tuple[str, str]]:
    if name in ("registry.db", "unified_elo.db"):
        return None  # A copy kept beside the games; the live one has its own place.
    if name.endswith(DATABASE_SUFFIXES):
        return ("games", "eval" if _EVALUATION.match(name) else "deep")
    if name.endswith(".jsonl"):
        return ("games", "jsonl")
    return _npz_kind(name) or _model_kind(("models", *parts), name)

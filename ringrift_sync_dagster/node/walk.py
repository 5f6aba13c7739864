"""Walk the roots and give each file that is ours once, under its real path, with one stat per file.

Real folders come first, symbolic links last: what a link leads to is given only if the walk has not been there, so
loops end and no games are counted twice; links are followed in the order of their names, so that a file keeps its
name. A link that leads out of the roots, a folder that cannot be read and a name that is not UTF-8 are found with
an error instead of a stat; nothing is left out in silence.
"""

from __future__ import annotations

import heapq
import os
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from .errors import KitError, from_os_error
from .patterns import FileClass, classify, folder_class, may_hold_ours
from .roots import Roots, display, is_text

_NEW = FileClass("", "", None, collectable=False)  # stands for "not classified yet" in the memo


class Found(NamedTuple):
    """A file that is ours: its name, where to open it, what it is, and its stat or what is wrong with it."""

    path: str
    absolute: str
    file_class: FileClass
    stat: Optional[os.stat_result]
    error: Optional[KitError]


class _Place(NamedTuple):
    """A folder to walk or a link to follow: ``inner`` is its path below the root, empty for the root itself."""

    root: int
    inner: str
    absolute: str


def _bad_name() -> KitError:
    return KitError("unreadable", "the name is not UTF-8: rename the file")


def _trouble(path: str, absolute: str, file_class: FileClass, error: KitError) -> Found:
    shown = display(path)
    return Found(shown, absolute, file_class, None, KitError(error.code, error.message, shown))


class Walker:
    """Walks the same roots again and again; it remembers what each path is. Not for more than one thread."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._classes: Dict[str, Optional[FileClass]] = {}
        self._next: Dict[str, Optional[FileClass]] = {}
        self._folders: Set[Tuple[int, int]] = set()
        self._databases: Set[Tuple[int, int]] = set()
        self._links: List[_Place] = []

    def walk(self) -> Iterator[Found]:
        """Give every file that is ours, in no order.

        Raises:
            KitError: ``missing`` where the node's own root does not exist; an extra root may be unmounted.

        """
        self._next, self._folders, self._databases, self._links = {}, set(), set(), []
        for index, root in enumerate(self._roots.paths):
            if os.path.isdir(root):
                yield from self._tree(_Place(index, "", root))
            elif index == 0:
                raise KitError("missing", "the root of this node does not exist", display(root))
            else:
                error = KitError("missing", "this root does not exist: is the storage mounted?")
                yield _trouble(f"@{index}", root, folder_class(""), error)
        while self._links:
            yield from self._link(heapq.heappop(self._links))
        self._classes = self._next

    def _tree(self, top: _Place) -> Iterator[Found]:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                yield from self._folder(folder, waiting)
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    path = self._roots.prefix(folder.root) + folder.inner or "."
                    yield _trouble(path, folder.absolute, folder_class(folder.inner), from_os_error(error))

    def _folder(self, folder: _Place, waiting: List[_Place]) -> Iterator[Found]:
        """Give the files of one folder and note its folders and links."""
        found = os.stat(folder.absolute)
        identity = (found.st_dev, found.st_ino)
        if identity in self._folders:
            return
        self._folders.add(identity)
        stem = folder.inner + "/" if folder.inner else ""
        prefix = self._roots.prefix(folder.root) + stem
        with os.scandir(folder.absolute) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                inner = stem + name
                if entry.is_symlink():
                    heapq.heappush(self._links, _Place(folder.root, inner, entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    yield from self._nested(_Place(folder.root, inner, entry.path), waiting)
                else:
                    path = prefix + name
                    file_class = self._classify(path, inner, external=folder.root > 0)
                    if file_class is not None:
                        file = self._file(entry, path, file_class)
                        if file is not None:
                            yield file

    def _classify(self, path: str, inner: str, *, external: bool) -> Optional[FileClass]:
        file_class = self._classes.get(path, _NEW)
        if file_class is _NEW:
            file_class = classify(inner, external=external)
        self._next[path] = file_class
        return file_class

    def _nested(self, folder: _Place, waiting: List[_Place]) -> Iterator[Found]:
        file_class = classify(folder.inner, external=folder.root > 0)
        if file_class is not None and file_class.is_database:
            error = KitError("not_a_database", "this is a folder with the name of a database")
            yield _trouble(self._roots.prefix(folder.root) + folder.inner, folder.absolute, file_class, error)
        elif may_hold_ours(folder.inner, external=folder.root > 0):
            waiting.append(folder)

    def _file(self, entry: os.DirEntry[str], path: str, file_class: FileClass) -> Optional[Found]:
        """Give a file that the folder holds; None where it is gone since the folder was read."""
        if not (path.isascii() or is_text(path)):
            return _trouble(path, entry.path, file_class, _bad_name())
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            return _trouble(path, entry.path, file_class, from_os_error(error))
        if file_class.is_database:
            self._databases.add((found.st_dev, found.st_ino))
        return Found(path, entry.path, file_class, found, None)

    def _link(self, link: _Place) -> Iterator[Found]:
        """Follow a symbolic link if it leads to something of ours inside the roots."""
        path = self._roots.prefix(link.root) + link.inner
        real = os.path.realpath(link.absolute)
        file_class = classify(link.inner, external=link.root > 0)
        if os.path.isdir(real):
            if not may_hold_ours(link.inner, external=link.root > 0):
                return
            if self._roots.contains(real):
                yield from self._tree(_Place(link.root, link.inner, real))
                return
            file_class = folder_class(link.inner)
        if file_class is None:
            return
        if not self._roots.contains(real):
            message = "a symbolic link leads out of this node's roots: name its target in storage_paths"
            yield _trouble(path, link.absolute, file_class, KitError("outside", message))
        else:
            yield from self._linked_file(path, real, file_class)

    def _linked_file(self, path: str, real: str, file_class: FileClass) -> Iterator[Found]:
        try:
            found = os.stat(real)
        except OSError as error:
            yield _trouble(path, real, file_class, from_os_error(error))
            return
        identity = (found.st_dev, found.st_ino)
        if file_class.is_database and identity in self._databases:
            return
        self._databases.add(identity)
        if is_text(path):
            yield Found(path, real, file_class, found, None)
        else:
            yield _trouble(path, real, file_class, _bad_name())

"""The file that a push sends, for carriers that hand its path to another program instead of reading it themselves."""

from __future__ import annotations

import threading
from pathlib import Path

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.storage.files import disk_errors
from ringrift_sync_dagster.transports.sending import FileBody


class SourceFile(FileBody):
    """A ``FileBody`` that tells where it lies, and can be asked whether that is still the file that was opened.

    Args:
        source: The file; opened once.
        artifact: What the file must be.
        node: The receiver, for messages.
        transport: The transport, for messages.
        deadline: No piece is given out after it.
        cancel: Looked at before every piece.

    Raises:
        LocalDiskError: The file cannot be opened.
        SourceChangedError: Its length is not the artifact's.

    """

    def __init__(
        self,
        source: Path,
        artifact: Artifact,
        node: str,
        transport: str,
        deadline: Deadline,
        cancel: threading.Event | None,
    ) -> None:
        super().__init__(source, artifact, node, transport, deadline, None, cancel)
        self.path = source
        self.size_bytes = artifact.size_bytes

    def check(self) -> None:
        """Do nothing while the file under its name is the one that was opened, unchanged.

        Raises:
            SourceChangedError: It changed, was replaced, or is gone.

        """
        with disk_errors(self.path, "look at"):
            try:
                found = self.path.stat()
            except FileNotFoundError:
                raise self._changed("it is gone") from None
        opened = self._opened
        if (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) != (
            opened.st_dev, opened.st_ino, opened.st_size, opened.st_mtime_ns,
        ):  # fmt: skip
            raise self._changed("it changed while it was sent")

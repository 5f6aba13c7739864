"""``python -m ringrift_sync_dagster.cli`` is ``ringrift-sync``."""

from __future__ import annotations

import sys

from ringrift_sync_dagster.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

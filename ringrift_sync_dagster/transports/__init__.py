"""Ways to reach a node: one contract (``base``), one test suite; a transport only decides how the bytes travel."""

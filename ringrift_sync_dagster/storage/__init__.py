"""One disk: files that survive a power cut, blocks, the canonical store and the quarantine; no node and no network."""

"""The file system whose power can be cut, for whole passes."""

from tests.storage.test_power_cut import disk

__all__ = ["disk"]

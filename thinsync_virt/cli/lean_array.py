"""array without the package collections, for a process that does nothing but answer a delta.

It asks ``collections.abc`` for a class to be registered with, and importing that package takes longer than all of
``thin``. What ``collections.abc`` has is ``_collections_abc``'s, which is there at every start.
"""

from __future__ import annotations

import _collections_abc
import sys


def load() -> None:
    """Import it, if neither is there yet; who imports collections later gets it whole."""
    if "array" in sys.modules or "collections" in sys.modules:
        return
    sys.modules["collections"] = type(sys)("collections")
    sys.modules["collections.abc"] = _collections_abc
    try:
        import array  # noqa: F401 - for those that come after
    finally:
        del sys.modules["collections"], sys.modules["collections.abc"]

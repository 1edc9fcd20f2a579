"""numpy without those of its parts that nothing here uses, for a process that does nothing but answer a delta.

numpy 1 imports all its parts with itself: a third of the time that it takes, and 9 MiB. With empty modules in their
places it does without. numpy 2 waits until somebody asks for them, and is left alone.
"""

from __future__ import annotations

import os
import sys

_UNUSED = ("ctypeslib", "fft", "ma", "polynomial", "random")


def leave_out() -> None:
    """Before numpy is imported, if ever it is. Whoever wants these parts in this process would find them empty."""
    if "numpy" in sys.modules or not _is_first():
        return
    module = type(sys)
    for name in _UNUSED:
        sys.modules[f"numpy.{name}"] = module(f"numpy.{name}")


def _is_first() -> bool:
    """Whether it is numpy 1, and an early one: Debian 12 has 1.24."""
    for path in sys.path:
        if os.path.isdir(f"{path}/numpy"):
            return os.path.isdir(f"{path}/numpy/core") and not os.path.isdir(f"{path}/numpy/_core")
    return False

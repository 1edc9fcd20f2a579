"""Where tests find thin_check and its like, whoever runs them."""

from __future__ import annotations

import os

from thinsync_virt.system.process import SEARCH_PATH


def find() -> None:
    """Search the administrators' directories, too: a user's PATH has none, nor has root's after ``su``."""
    given = os.environ.get("PATH")
    os.environ["PATH"] = f"{given}:{SEARCH_PATH}" if given else SEARCH_PATH

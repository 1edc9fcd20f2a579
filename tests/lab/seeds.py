"""One seed for everything random in a run."""

from __future__ import annotations

import os
import random


def seed() -> int:
    """The seed of this run: THINSYNC_SEED, or one made now."""
    return int(os.environ.setdefault("THINSYNC_SEED", str(random.randrange(1 << 32))))

"""How hypothesis works in all tests: what it finds depends on the code and the seed, never on the machine.

The seed is THINSYNC_SEED (``make test SEED=...``), also where CI is in the environment: every run draws other cases,
and any can be repeated. pytest's ``--hypothesis-seed`` goes before it; without either it is random.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, core, settings

CASES = 100
"""For a test that says nothing else."""


def use() -> None:
    """The same with CI in the environment and without: hypothesis' own profile for CI draws the same each time."""
    settings.register_profile(
        "thinsync",
        # A machine that is slow or busy is no failure; nor is one whose checkout cannot be written to.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        database=None,
        derandomize=False,
        # As many as without CI, and no more: a run stays as long as it is.
        max_examples=CASES,
        print_blob=True,
    )
    settings.load_profile("thinsync")
    forced: Any = core
    if forced.global_force_seed is None and (seed := os.environ.get("THINSYNC_SEED", "")):
        forced.global_force_seed = int(seed)

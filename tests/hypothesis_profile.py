"""How hypothesis works in all tests: what it finds depends on the code and the seed, never on the machine."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def use() -> None:
    """The same with CI in the environment and without, but that CI draws the same examples each time."""
    settings.register_profile(
        "thinsync",
        # A machine that is slow or busy is no failure; nor is one whose checkout cannot be written to.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        database=None,
        derandomize="CI" in os.environ,
        print_blob=True,
    )
    settings.load_profile("thinsync")

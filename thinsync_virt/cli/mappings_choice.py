"""Who reads the pools' metadata for this run."""

from __future__ import annotations

import os

from thinsync_virt.endpoint.mappings import MappingsOpener, OwnOpener, ThinToolsOpener
from thinsync_virt.errors import UsageError


def chosen_opener() -> MappingsOpener:
    """Our own reader, unless ``THINSYNC_MAPPINGS=thin-tools`` asks for the other. Raises UsageError."""
    match os.environ.get("THINSYNC_MAPPINGS", "own"):
        case "own":
            return OwnOpener()
        case "thin-tools":
            return ThinToolsOpener()
        case other:
            raise UsageError(
                f"THINSYNC_MAPPINGS is {other!r}", hint="set it to own (what holds without it) or thin-tools"
            )

"""Text that comes from elsewhere, made fit for a terminal and a log."""

from __future__ import annotations

import re

# Terminal sequences whole (CSI, OSC), then C0 and C1 controls and DEL, the bidirectional overrides that turn a line
# round, and lone surrogates.
_SEQUENCES = re.compile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


def printable(text: str, limit: int = 4096) -> str:
    """The text on one line, without terminal sequences and control characters, at most ``limit`` characters."""
    # Cut before the search as well: nothing here may take long because somebody sent much.
    cleaned = _CONTROLS.sub(" ", _SEQUENCES.sub("", text[: 4 * limit])).strip()
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "\u2026"

"""Whether a node can serve the next test, and what is done when it cannot: it is made anew."""

from __future__ import annotations

import time

from thinlab.errors import LabError
from thinlab.node import Node
from thinlab.process import CommandError
from thinlab.storage import POOL

# Time is no proof: a machine may be slow. Only what LVM says is.
_LIMIT = 120
_ATTEMPTS = 4
_PAUSE_SECONDS = 2.0
_TORN = ("checksum error", "retrying metadata scan", "failed to read metadata", "invalid metadata")
_GONE = ("not found", "failed to find logical volume")


class VolumeGroupLost(LabError):
    """A power cut fell inside an LVM command and took the group's text with it; the node has been made anew."""


def group_trouble(node: Node) -> str:
    """What LVM says is wrong with vg0 or its pool, each time; "" when they are there.

    Beside another command, at a boot, LVM may see half of a change: what is torn stays so.
    """
    said = ""
    for _ in range(_ATTEMPTS):
        said = _said(node)
        if not said:
            break
        time.sleep(_PAUSE_SECONDS)
    return said


def _said(node: Node) -> str:
    done = node.run(["lvs", "--noheadings", "-o", "lv_name", POOL], check=False, timeout=_LIMIT)
    said = f"{done.stdout}\n{done.stderr}"
    if any(word in said.lower() for word in _TORN) or (
        not done.ok and any(word in said.lower() for word in _GONE)
    ):
        return said.strip()
    return ""


def trouble(node: Node) -> str:
    """What is wrong with a node that runs; "" when nothing is. A node that is only slow is waited for."""
    try:
        node.wait()
        return group_trouble(node)
    except CommandError as error:
        if error.result.returncode != 124:
            return error.message
        raise
    except LabError as error:
        return error.message

"""The devices of a stream, open for as long as it is sent."""

from __future__ import annotations

from contextlib import ExitStack

from thinsync_virt.endpoint.source.outgoing import OutgoingStream
from thinsync_virt.errors import NotFoundError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.lvm import Lvm

_ATTEMPTS = 3


def open_stream(lvm: Lvm, stream: OutgoingStream, names: tuple[VolumeName, ...]) -> ExitStack:
    """Open from now on: nobody who has read one of the volumes ``names`` beside us can deactivate it."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return stream.open()
        except NotFoundError:
            # A verification that read the base has ended just now, and deactivated what was not open yet.
            if attempt == _ATTEMPTS:
                raise
            lvm.activate(names)
    raise AssertionError("unreachable")

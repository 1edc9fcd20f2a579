"""Locks of ``send`` and ``receive``: one receive into a volume at a time, one sender for each temporary snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from thinsync_virt.errors import BusyError
from thinsync_virt.model.names import VolumeName
from thinsync_virt.system.locks import hold, lock_path

MOST_SENDERS = 16
"""Of one writable volume at a time."""


@contextmanager
def receive_locks(targets: Iterable[VolumeName]) -> Iterator[None]:
    """Held by whoever receives into these volumes, without waiting. Raises BusyError: already running, pid N."""
    with ExitStack() as stack:
        for target in sorted(set(targets)):
            stack.enter_context(
                hold(lock_path("receive", target.vg, target.lv), 0, what=f"receive into {target}")
            )
        yield


@contextmanager
def slot_lock(source: VolumeName, slot: int) -> Iterator[None]:
    """Held by whoever sends the temporary snapshot with this slot in its tag. Raises BusyError."""
    with hold(lock_path("send", source.vg, source.lv, str(slot)), 0, what=f"send of {source}"):
        yield


@contextmanager
def any_slot(source: VolumeName) -> Iterator[int]:
    """A slot that nobody else has. Raises BusyError when all are taken."""
    with ExitStack() as stack:
        yield _take_slot(source, stack)


def _take_slot(source: VolumeName, stack: ExitStack) -> int:
    for slot in range(MOST_SENDERS):
        with suppress(BusyError):
            stack.enter_context(slot_lock(source, slot))
            return slot
    raise BusyError(
        f"{source} is being sent {MOST_SENDERS} times already", hint="wait for one of them to end: ps -ef"
    )

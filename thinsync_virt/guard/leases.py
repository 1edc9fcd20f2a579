"""Leases: what must be undone on one guest, on disk before it is done, so that any later process can undo it.

One JSON file per domain under /run/thinsync/leases (a reboot ends guests and leases alike), replaced as a whole
before each step and removed when nothing is left to undo.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from thinsync_virt.errors import ConflictError, ThinsyncError
from thinsync_virt.guard.messages import UnfitMessageError
from thinsync_virt.guard.wire import Fields
from thinsync_virt.hypervisor.process import Process
from thinsync_virt.model.names import VolumeName, check_id
from thinsync_virt.system.files import read_if_there, remove_durably, write_durably

LEASES = Path("/run/thinsync/leases")
VERSION = 1
_MAX_PID = 1 << 22

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """What we may have done to a domain, and the ways to it. ``uuid`` has 32 hexadecimal digits.

    ``froze`` and ``paused`` are set before the call is made: they say that it may have happened. ``qemu`` and
    ``lvm`` are None when unknown or not started. ``origins`` may be found suspended once ``lvm`` is gone.
    """

    domain: str
    uuid: str
    froze: bool = False
    paused: bool = False
    origins: tuple[VolumeName, ...] = ()
    qemu: Process | None = None
    lvm: Process | None = None
    agent_socket: str = ""
    monitor_socket: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to undo."""
        return not (self.froze or self.paused or self.origins)


class OpenLease:
    """A lease and its file. What :attr:`lease` says is on disk; safe to use from several threads.

    Something that was undone is in :attr:`left` no more, also while a full or read-only directory keeps the file
    from saying so: then it is neither undone again, nor does anything else wait for that.
    """

    def __init__(self, lease: Lease, directory: Path = LEASES) -> None:
        self._lease = self._left = lease
        self._lock = threading.Lock()
        self.path = directory / f"{lease.uuid}.json"

    @property
    def lease(self) -> Lease:
        """As it stands on disk."""
        return self._lease

    @property
    def left(self) -> Lease:
        """What there still is to undo."""
        return self._left

    def update(self, **changes: Any) -> None:
        """Record what is about to be done. Raises ThinsyncError: then it must not be done."""
        with self._lock:
            changed = replace(self._left, **changes)
            try:
                self._save(changed)
            except ThinsyncError:
                # It may be there all the same, only not durably: then it has to go.
                self._lease = changed
                raise
            self._left = changed

    def strike(self, **changes: Any) -> None:
        """Record what has been undone; with nothing left, the file goes. Raises ThinsyncError: :meth:`save` later."""
        with self._lock:
            self._left = replace(self._left, **changes)
            self._save(self._left)

    def save(self) -> None:
        """Have the file say what is left, if it could not be written when something was struck off."""
        with self._lock:
            if self._lease != self._left:
                self._save(self._left)

    def _save(self, changed: Lease) -> None:
        if changed.settled:
            remove_durably(self.path)
        else:
            write_durably(self.path, _encode(changed))
        # Last: whoever sees it settled may begin the next window, whose lease has the same path.
        self._lease = changed


class UnfitLeaseError(ConflictError):
    """A lease that is not one of this version's: it is kept for a person to look at."""


def read_leases(directory: Path = LEASES) -> Iterator[OpenLease]:
    """The leases that lie there. One that cannot be read is logged, and kept for a person to look at."""
    for found in _look_through(directory):
        if isinstance(found, UnfitLeaseError):
            log.error("%s", found)
        else:
            yield found


def unfit_leases(directory: Path = LEASES) -> tuple[UnfitLeaseError, ...]:
    """Those that :func:`read_leases` passes over."""
    return tuple(found for found in _look_through(directory) if isinstance(found, UnfitLeaseError))


def new_lease(lease: Lease, directory: Path = LEASES) -> OpenLease:
    """One that is not on disk yet. Raises UnfitLeaseError when one that nobody could read lies there."""
    opened = OpenLease(lease, directory)
    if os.path.lexists(opened.path):
        raise _unfit(opened.path, "it is there already, and nobody undoes it")
    return opened


def _look_through(directory: Path) -> Iterator[OpenLease | UnfitLeaseError]:
    for path in sorted(directory.glob("*.json")):
        try:
            content = read_if_there(path)
            if content is None:
                continue
            opened = OpenLease(_decode(content), directory)
        except ThinsyncError as error:
            yield _unfit(path, error.message)
            continue
        # What is undone is struck off the file of that name.
        yield opened if opened.path == path else _unfit(path, "it has not the name of its domain")


def _unfit(path: Path, why: str) -> UnfitLeaseError:
    named = shlex.quote(str(path))
    return UnfitLeaseError(
        f"lease {path}: {why}; the guest that it is of may still be frozen or paused",
        hint=f"see which it is (cat {named}) and that it runs (virsh domstate, virsh domfsthaw); then: rm {named}",
    )


def _encode(lease: Lease) -> bytes:
    values = asdict(lease)
    values["origins"] = [str(origin) for origin in lease.origins]
    return json.dumps({"version": VERSION, **values}).encode() + b"\n"


def _decode(content: bytes) -> Lease:
    fields = Fields.of_line(content, "lease")
    if fields.number("version") != VERSION:
        raise UnfitMessageError("it is of another version of this program")
    return Lease(
        domain=fields.text("domain"),
        uuid=check_id(fields.text("uuid")),
        froze=fields.flag("froze"),
        paused=fields.flag("paused"),
        origins=tuple(VolumeName.parse(name) for name in fields.texts("origins")),
        qemu=_process(fields, "qemu"),
        lvm=_process(fields, "lvm"),
        agent_socket=fields.text("agent_socket"),
        monitor_socket=fields.text("monitor_socket"),
    )


def _process(fields: Fields, name: str) -> Process | None:
    if fields.values.get(name) is None:
        return None
    process = fields.nested(name)
    pid, start = int(process.number("pid")), int(process.number("start"))
    if not 0 < pid < _MAX_PID:
        raise UnfitMessageError(f"{pid} is no process")
    return Process(pid, start)

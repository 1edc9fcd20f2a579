"""Domains as the hypervisor knows them, with each disk mapped to its thin volume."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from thinsync_virt.model.volumes import ThinVolume


class DomainState(enum.StrEnum):
    """Whether the guest runs. ``paused`` is somebody's wish: it stays paused."""

    RUNNING = "running"
    PAUSED = "paused"
    OFF = "off"


class CacheMode(enum.StrEnum):
    """libvirt's disk cache modes (``default`` when the definition names none)."""

    DEFAULT = "default"
    NONE = "none"
    WRITEBACK = "writeback"
    WRITETHROUGH = "writethrough"
    DIRECTSYNC = "directsync"
    UNSAFE = "unsafe"


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk or drive of a domain. Exactly one of ``volume`` and ``problem`` is set.

    ``device`` is libvirt's (disk, cdrom, floppy, lun), ``source`` the path or name for people,
    ``problem`` why it cannot be replicated. A cdrom or floppy is never replicated as a disk and does not
    refuse the domain: ``removable``.
    """

    target: str
    device: str
    source: str
    cache: CacheMode
    volume: ThinVolume | None
    problem: str = ""
    hint: str = ""

    @property
    def removable(self) -> bool:
        """Whether it is a drive for media rather than a disk."""
        return self.device in ("cdrom", "floppy")


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain. ``uuid`` has 32 hexadecimal digits. ``problems`` forbid replication of the domain as a whole."""

    name: str
    uuid: str
    state: DomainState
    persistent: bool
    has_agent: bool
    disks: tuple[Disk, ...]
    managed_save: bool = False
    problems: tuple[str, ...] = ()

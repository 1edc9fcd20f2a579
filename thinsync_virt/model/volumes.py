"""Thin pools and thin volumes as LVM and the kernel report them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from thinsync_virt.model.names import VolumeName


@dataclass(frozen=True, slots=True)
class ThinVolume:
    """One thin LV. ``size`` in bytes; ``uuid``, ``vg_uuid`` with LVM's dashes; ``thin_id`` dm-thin's device id.

    ``open`` is whether some process holds the active device open. ``extra`` flags say what forbids snapshots.
    """

    name: VolumeName
    uuid: str
    vg_uuid: str
    pool: VolumeName
    thin_id: int
    size: int
    tags: tuple[str, ...] = ()
    active: bool = False
    open: bool = False
    read_only: bool = False
    activation_skip: bool = False
    external_origin: str = ""
    origin: str = ""
    created: int = 0


class PoolMode(enum.StrEnum):
    """The kernel's word for what a pool can still do."""

    RW = "rw"
    READ_ONLY = "ro"
    OUT_OF_DATA_SPACE = "out_of_data_space"
    FAILED = "fail"


@dataclass(frozen=True, slots=True)
class Pool:
    """A thin pool as LVM describes it. Sizes in bytes; ``transaction_id`` is LVM's, not the kernel's."""

    name: VolumeName
    uuid: str
    vg_uuid: str
    size: int
    chunk_size: int
    metadata_size: int
    transaction_id: int
    zeroes: bool
    discards: str
    active: bool


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool as the kernel sees it now. Block counts: metadata in 4 KiB blocks, data in chunks."""

    transaction_id: int
    used_metadata: int
    total_metadata: int
    used_data: int
    total_data: int
    held_root: int | None
    mode: PoolMode
    needs_check: bool
    queue_if_no_space: bool

"""Builds what ``send`` and ``receive`` work with: without libvirt, which has a part in domains alone.

Each loads what it needs itself: starting takes as long as all the rest of a small transfer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from os import uname
from typing import TYPE_CHECKING

from thinsync_virt.cli.privilege import need_root
from thinsync_virt.endpoint.pools import report_pools
from thinsync_virt.system.lvm import Lvm

if TYPE_CHECKING:
    from thinsync_virt.endpoint.source.tuning import Tuning
    from thinsync_virt.endpoint.volumes.domains import DomainSnapshots
    from thinsync_virt.endpoint.volumes.points import PointFinder
    from thinsync_virt.endpoint.volumes.receive import VolumeReceiver
    from thinsync_virt.endpoint.volumes.send import VolumeSender


def local_sender(tuning: Tuning) -> VolumeSender:
    """For ``thinsync-vm send``. Raises UsageError when we are not root."""
    from thinsync_virt.cli.mappings_choice import chosen_opener
    from thinsync_virt.endpoint.volumes.send import VolumeSender

    need_root()
    lvm = Lvm()
    return VolumeSender(lvm, chosen_opener(), partial(report_pools, lvm), uname().nodename, tuning)


def local_point_finder() -> PointFinder:
    """The recovery points of this host. Raises PoolError, CommandError."""
    from thinsync_virt.endpoint.volumes.points import PointFinder

    return PointFinder(Lvm())


@contextmanager
def local_domains() -> Iterator[DomainSnapshots]:
    """The domains of this host. Raises UsageError when we are not root."""
    from thinsync_virt.cli.build import LocalHost
    from thinsync_virt.endpoint.volumes.domains import DomainSnapshots

    host = LocalHost.make()
    try:
        yield DomainSnapshots(host.lvm, host.source())
    finally:
        host.hypervisor.close()


def local_receiver() -> VolumeReceiver:
    """For ``thinsync-vm receive``. Raises UsageError when we are not root."""
    from thinsync_virt.endpoint.volumes.receive import VolumeReceiver
    from thinsync_virt.system.dmsetup import DmSetup

    need_root()
    lvm = Lvm()
    return VolumeReceiver(lvm, DmSetup(), partial(report_pools, lvm), uname().nodename)

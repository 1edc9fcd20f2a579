"""One report per thin pool: LVM's words, the kernel's, the group's room and the pool's time."""

from __future__ import annotations

from thinsync_virt.errors import PoolError
from thinsync_virt.model.states import GroupReport, PoolReport
from thinsync_virt.system.lvm import Lvm

"""One lock per domain and role: whoever holds it may change that replica's sets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from thinsync_virt.errors import BusyError
from thinsync_virt.model.names import check_id, check_lvm_name
from thinsync_virt.model.tags import Role
from thinsync_virt.system.locks import hold, lock_path


def replica_lock(role: Role, domain: str, *, what: str = "", host: str = "") -> AbstractContextManager[None]:
    """Held by one job at a time, without waiting. ``domain`` is a UUID, ``what`` and ``host`` as for ``hold``.

    Raises BusyError: already running, pid N.
    """
    return hold(lock_path(role.name.lower(), check_id(domain)), 0, what=what, host=host)


def window_lock(vg: str, wait: float) -> AbstractContextManager[None]:
    """Held for a window in a volume group, for ``wait`` seconds waited for. Raises BusyError.

    LVM locks whole groups, and inside a freeze waits for nobody: windows in two pools of one group would spoil each
    other's, with both guests frozen. Take it after the pools' locks.
    """
    return hold(lock_path("window", check_lvm_name(vg)), wait, what=f"a snapshot in volume group {vg}")


def took(stack: ExitStack, lock: Callable[[], AbstractContextManager[None]]) -> bool:
    """Hold ``lock`` until ``stack`` is closed; False where somebody else has it. What is busy later is not hidden."""
    try:
        stack.enter_context(lock())
    except BusyError:
        return False
    return True

"""One lock per domain and role: whoever holds it may change that replica's sets."""

from __future__ import annotations

from contextlib import AbstractContextManager

from thinsync_virt.model.names import check_id
from thinsync_virt.model.tags import Role
from thinsync_virt.system.locks import hold, lock_path


def replica_lock(role: Role, domain: str, *, what: str = "", host: str = "") -> AbstractContextManager[None]:
    """Held by one job at a time, without waiting. ``domain`` is a UUID, ``what`` and ``host`` as for ``hold``.

    Raises BusyError: already running, pid N.
    """
    return hold(lock_path(role.name.lower(), check_id(domain)), 0, what=what, host=host)

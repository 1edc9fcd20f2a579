"""A connection to libvirt of which every call ends: a daemon that hangs would hold up a run, and its locks, for ever.

::

    connection = bounded("qemu:///system", lambda: connect("qemu:///system"))
    connection.raw.listAllDomains(0)        # UnreachableError after CALL_SECONDS without an answer

What libvirt gives (domains, pools, volumes) is bounded likewise. A call that was given up goes on in a thread that is
left behind, and may take effect when the daemon comes to itself: it is then as if the run had been killed in it, which
every step allows for. The guard, which has less time, keeps limits of its own (``freeze.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from thinsync_virt.errors import UnreachableError
from thinsync_virt.hypervisor.connection import Connection, libvirt_module
from thinsync_virt.hypervisor.deadline import OverdueError, within

T = TypeVar("T")

CALL_SECONDS = 120.0
"""libvirt itself waits for a domain's job for 30 s, and for each QEMU that it has to start to know what it can."""
CLOSE_SECONDS = 5.0
_HANGS_HINT = (
    "its daemon runs and does not answer: systemctl status libvirtd virtqemud; journalctl -u libvirtd -u virtqemud;"
    " to restart it (systemctl restart libvirtd, or virtqemud) ends no guest"
)


class BoundedConnection(Connection):
    """An open connection whose ``raw`` is bounded."""

    def __init__(self, inner: Connection) -> None:
        super().__init__(_Bounded(inner.raw, inner.uri), inner.uri)
        self._inner = inner

    def close(self) -> None:
        """Close it, without waiting long for a daemon that hangs."""
        with suppress(OverdueError):
            within(CLOSE_SECONDS, "close the connection", self._inner.close)


def bounded(uri: str, connect: Callable[[], Connection]) -> Connection:
    """What ``connect`` opens, bounded, and opened within the same limit. Raises UnreachableError."""
    return BoundedConnection(_call(uri, "connect", connect))


class _Bounded:
    """An object of libvirt's."""

    def __init__(self, inner: Any, uri: str) -> None:
        self._inner = inner
        self._uri = uri

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return partial(self._ask, name, found) if callable(found) else found

    def _ask(self, name: str, method: Callable[..., Any], *arguments: Any) -> Any:
        return self._wrapped(_call(self._uri, name, partial(method, *arguments)))

    def _wrapped(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._wrapped(one) for one in value]
        ours = any(base.__module__ == libvirt_module().__name__ for base in type(value).__mro__)
        return _Bounded(value, self._uri) if ours else value


def _call(uri: str, name: str, call: Callable[[], T]) -> T:
    try:
        return within(CALL_SECONDS, name, call)
    except OverdueError as error:
        raise UnreachableError(
            f"libvirt ({uri}) has not answered for {CALL_SECONDS:.0f} s (asked: {name})", hint=_HANGS_HINT
        ) from error

"""The one door to libvirt: its bindings are untyped, print to standard error, and their errors need a hint.

``libvirt`` is imported at the first use, so that commands that need no hypervisor start without it. No event
loop is registered: nothing here waits for events.

    with connect() as connection, translated("read the definition of web01"):
        xml: str = connection.lookup("web01").XMLDesc(0)
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from thinsync_virt.errors import GuestError, NotFoundError, ThinsyncError, UnreachableError

DEFAULT_URI = "qemu:///system"

# libvirt's error numbers (virterror.h); they are part of its stable ABI.
VIR_ERR_INTERNAL_ERROR = 1
VIR_ERR_NO_SUPPORT = 3
VIR_ERR_NO_CONNECT = 5
VIR_ERR_SYSTEM_ERROR = 38
VIR_ERR_RPC = 39
VIR_ERR_NO_DOMAIN = 42
VIR_ERR_AUTH_FAILED = 45
VIR_ERR_OPERATION_INVALID = 55
VIR_ERR_OPERATION_TIMEOUT = 68
VIR_ERR_AUTH_CANCELLED = 79
VIR_ERR_AGENT_UNRESPONSIVE = 86

_AWAY = frozenset({VIR_ERR_NO_CONNECT, VIR_ERR_RPC, VIR_ERR_AUTH_FAILED, VIR_ERR_AUTH_CANCELLED})
# The first call on a connection whose daemon has gone fails with EPIPE or the like, every later one with "internal
# error: client socket is closed". A full disk has these numbers too: where an error comes from tells them apart.
_VIR_FROM_RPC = 7
_CONNECTION_LOST = frozenset({VIR_ERR_INTERNAL_ERROR, VIR_ERR_SYSTEM_ERROR})
_AWAY_HINT = "is it installed (apt install libvirt-daemon-system), and does it run? systemctl status libvirtd virtqemud"
_REFUSED_HINT = "that is libvirt's reason; its log may say more: journalctl -u libvirtd -u virtqemud"


@functools.cache
def libvirt_module() -> Any:
    """The ``libvirt`` module, its error printing silenced. Raises UnreachableError when it is not installed."""
    module = _import("libvirt")
    # Without a handler the C library prints each error to standard error, beside ours.
    module.registerErrorHandler(lambda _context, _error: None, None)
    return module


@functools.cache
def libvirt_qemu_module() -> Any:
    """The ``libvirt_qemu`` module: agent and monitor commands. Raises UnreachableError when not installed."""
    libvirt_module()
    return _import("libvirt_qemu")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnreachableError(
            "libvirt's Python bindings are not installed", hint="apt install python3-libvirt", retry=False
        ) from error


def error_number(error: BaseException | None) -> int | None:
    """libvirt's number of an error, or of the libvirt error that a ThinsyncError was raised from, else None."""
    if isinstance(error, ThinsyncError):
        error = error.__cause__
    getter = getattr(error, "get_error_code", None)
    number = getter() if getter is not None else None
    return number if isinstance(number, int) else None


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn libvirt's errors inside the block into ours; ``action`` completes "cannot ...".

    NotFoundError for an unknown domain, UnreachableError when the daemon is away, else GuestError. The libvirt
    error stays as ``__cause__`` (see :func:`error_number`).
    """
    libvirt = libvirt_module()
    try:
        yield
    except libvirt.libvirtError as error:
        raise _translate(action, error) from error


def _translate(action: str, error: Any) -> ThinsyncError:
    number = error.get_error_code()
    message = f"cannot {action}: {error.get_error_message() or error}"
    if number == VIR_ERR_NO_DOMAIN:
        return NotFoundError(message, hint="virsh list --all shows the domains")
    if number in _AWAY or (number in _CONNECTION_LOST and error.get_error_domain() == _VIR_FROM_RPC):
        return UnreachableError(message, hint=_AWAY_HINT)
    return GuestError(message, hint=_REFUSED_HINT)


class Connection:
    """An open connection. ``raw`` is libvirt's virConnect, safe to use from several threads."""

    def __init__(self, raw: Any, uri: str) -> None:
        self.raw = raw
        self.uri = uri

    @property
    def answers(self) -> bool:
        """Whether the daemon at its other end is still there. One that was restarted is only seen by asking."""
        libvirt = libvirt_module()
        try:
            self.raw.getLibVersion()
        except libvirt.libvirtError:
            return False
        return True

    def lookup(self, name: str) -> Any:
        """The virDomain with that name, else one with that UUID (32 digits or dashed). Raises NotFoundError."""
        libvirt = libvirt_module()
        try:
            return self.raw.lookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() != VIR_ERR_NO_DOMAIN:
                raise _translate(f"look up domain {name}", error) from error
            missing = error
        try:
            return self.raw.lookupByUUIDString(name)
        except libvirt.libvirtError:  # not a UUID, or nobody's
            raise _translate(f"look up domain {name}", missing) from missing

    def lookup_uuid(self, uuid: str) -> Any:
        """The virDomain with that UUID (32 hexadecimal digits or dashed). Raises NotFoundError."""
        with translated(f"look up the domain with UUID {uuid}"):
            return self.raw.lookupByUUIDString(uuid)

    def close(self) -> None:
        """Close it; a connection that broke meanwhile is no error."""
        libvirt = libvirt_module()
        with suppress(libvirt.libvirtError):
            self.raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def volume_path(raw: Any, pool: str, volume: str) -> str:
    """The path of a volume in a storage pool, "" when there is none now (the pool may be stopped)."""
    try:
        return str(raw.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())
    except libvirt_module().libvirtError:
        return ""


def connect(uri: str = DEFAULT_URI, readonly: bool = False) -> Connection:
    """Connect to libvirt. May block while a socket-activated daemon starts. Raises UnreachableError.

    Secrets in definitions and all changes need ``readonly=False``.
    """
    libvirt = libvirt_module()
    try:
        raw = libvirt.openReadOnly(uri) if readonly else libvirt.open(uri)
    except libvirt.libvirtError as error:
        message = f"cannot connect to libvirt ({uri}): {error.get_error_message() or error}"
        raise UnreachableError(message, hint=_AWAY_HINT) from error
    return Connection(raw, uri)

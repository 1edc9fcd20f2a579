"""Where a replica goes: what stands behind ``--to``, parsed once.

::

    [USER@]HOST[:PORT]      web2    root@web2    web2:2222    10.0.0.7    root@[fe80::1]:22    [fe80::1]
    ssh://[USER@]HOST[:PORT]
    file:PATH               a directory of raw image files      (PATH is absolute)
    qcow2:PATH              a directory of qcow2 files
    archive:PATH            a directory of stream files
    HOST:KIND:PATH          the same at another host            root@web2:22:qcow2:/srv/copies
    ssh://HOST:KIND:PATH

A host given with ``ssh://`` and one without are the same value. What begins with ``file:``, ``qcow2:`` or
``archive:`` is always that kind, here: a host of that name needs ``ssh://``. The first kind with an absolute path
after it is the one that counts: ``web2:file:/a:qcow2:/b`` is the directory ``/a:qcow2:/b`` at ``web2``.

A path loses what says nothing: ``/srv//copies/./`` is ``/srv/copies``. Only ``..`` stays: behind a symbolic link it
leads elsewhere.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from dataclasses import dataclass
from typing import ClassVar

from thinsync_virt.errors import UsageError

_MAX_HOST = 253
_MAX_PATH = 200
"""Bytes. The target is recorded in an LVM tag of the source's point, which takes three characters for some of them."""
# Letters, digits, dots, dashes, and underscores, which names in ~/.ssh/config have. Never a leading dash: ssh would
# take it for an option; no percent sign, which ssh's configuration expands.
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_HINT = (
    "write HOST, USER@HOST:PORT, ssh://USER@HOST:PORT, or file:, qcow2: or archive: with an absolute path,"
    " or HOST: before one of those"
)


class TargetKind(enum.StrEnum):
    """What a target is."""

    HOST = "host"
    FILE = "file"
    QCOW2 = "qcow2"
    ARCHIVE = "archive"


@dataclass(frozen=True, slots=True)
class HostTarget:
    """A host that is reached with ssh. ``user`` and ``port`` are None where ssh's configuration decides."""

    user: str | None
    host: str
    port: int | None = None

    kind: ClassVar[TargetKind] = TargetKind.HOST

    def __post_init__(self) -> None:
        if self.user is not None and _USER.fullmatch(self.user) is None:
            raise _refusal(self.user, "a user name")
        if not _is_host(self.host):
            raise _refusal(self.host, "a host name")
        if self.port is not None and not 0 < self.port < 1 << 16:
            raise _refusal(str(self.port), "a port")

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user is not None else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        # Without the scheme these would be read as another kind.
        scheme = "ssh://" if not user and port and self.host in _STORES else ""
        return f"{scheme}{user}{host}{port}"


@dataclass(frozen=True, slots=True)
class StoreTarget:
    """A directory that keeps recovery points as files, here (``host`` is None) or at another host."""

    kind: TargetKind
    path: str
    host: HostTarget | None = None

    def __post_init__(self) -> None:
        if self.kind is TargetKind.HOST:
            raise _refusal(self.path, "a directory")
        object.__setattr__(self, "path", _plain_path(self.path))
        _check_path(self.path)

    def __str__(self) -> str:
        place = f"{self.kind.value}:{self.path}"
        if self.host is None:
            return place
        # A host that bears the name of a kind would be read as that kind.
        scheme = "ssh://" if self.host.user is None and self.host.host in _STORES else ""
        return f"{scheme}{str(self.host).removeprefix('ssh://')}:{place}"


Target = HostTarget | StoreTarget

_STORES = {kind.value: kind for kind in TargetKind if kind is not TargetKind.HOST}
_STORE = re.compile(f"(?P<host>(?:.*?:)?)(?P<kind>{'|'.join(_STORES)}):(?P<path>/.*)", re.DOTALL)


class TargetSpec:
    """Reads what a person typed."""

    @staticmethod
    def parse(text: str) -> Target:
        """The target that ``text`` names; ``str()`` of it gives a text that parses to the same. Raises UsageError."""
        kind, colon, rest = text.partition(":")
        if colon and kind in _STORES:
            return StoreTarget(_STORES[kind], rest)
        store = _STORE.fullmatch(text)
        if store is not None and store["host"]:
            return StoreTarget(
                _STORES[store["kind"]], store["path"], _parse_host(text, _address(store["host"][:-1]))
            )
        return _parse_host(text, _address(text))


def is_same_target(recorded: str, text: str) -> bool:
    """Whether both name one target. Earlier versions recorded paths as they were typed."""
    if recorded == text:
        return True
    try:
        return TargetSpec.parse(recorded) == TargetSpec.parse(text)
    except UsageError:
        return False


def _address(text: str) -> str:
    return text.removeprefix("ssh://")


def _parse_host(text: str, address: str) -> HostTarget:
    user, at, place = address.rpartition("@")
    if place.startswith("["):
        host, bracket, after = place[1:].partition("]")
        if not bracket or ":" not in host or (after and not after.startswith(":")):
            raise _refusal(text, "a target")
        port = after[1:] if after else None
    elif place.count(":") > 1:
        # fe80::1:22 could mean two things.
        raise UsageError(
            f"{text!r} is not a target", hint="write an IPv6 address in brackets: [ADDRESS]:PORT"
        )
    else:
        host, colon, after = place.partition(":")
        port = after if colon else None
    if port is not None and _PORT.fullmatch(port) is None:
        raise _refusal(text, "a target")
    return HostTarget(user if at else None, host, int(port) if port else None)


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            # A zone (fe80::1%eth0) has a percent sign, which ssh's configuration would expand.
            return "%" not in host and ipaddress.IPv6Address(host) is not None
        except ValueError:
            return False
    return len(host) <= _MAX_HOST and _HOST.fullmatch(host) is not None


def _plain_path(path: str) -> str:
    """An absolute path without empty parts and ``.``; another one as it is."""
    if not path.startswith("/"):
        return path
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _check_path(path: str) -> None:
    if not path.startswith("/"):
        raise UsageError(f"{path[:100]!r} is not an absolute path", hint=_HINT)
    if not path.isprintable():
        raise UsageError(
            f"{path[:100]!r} has characters that cannot be shown", hint="name a directory without them"
        )
    length = len(path.encode(errors="replace"))
    if length > _MAX_PATH:
        raise UsageError(
            f"the path {path[:60]!r}... has {length} bytes, at most {_MAX_PATH} are possible",
            hint="name a shorter one: a mount point nearer to /, or a symbolic link to the directory",
        )


def _refusal(text: str, what: str) -> UsageError:
    return UsageError(f"{text[:100]!r} is not {what}", hint=_HINT)

"""Where a replica goes: what stands behind ``--to``, parsed once.

::

    [USER@]HOST[:PORT]      web2    root@web2    web2:2222    10.0.0.7    root@[fe80::1]:22    [fe80::1]
    ssh://[USER@]HOST[:PORT]
    file:PATH               a raw image file       (PATH is absolute)
    qcow2:PATH              a directory of qcow2 files
    archive:PATH            a directory of stream files

A host given with ``ssh://`` and one without are the same value. A host called ``file`` needs ``ssh://``.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from dataclasses import dataclass
from typing import ClassVar

from thinsync_virt.errors import UsageError

_MAX_HOST = 253
_MAX_PATH = 4096
# Letters, digits, dots, dashes, and underscores, which names in ~/.ssh/config have. Never a leading dash: ssh would
# take it for an option; no percent sign, which ssh's configuration expands.
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_HINT = "write HOST, USER@HOST:PORT, ssh://USER@HOST:PORT, or file:, qcow2: or archive: with an absolute path"


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
        scheme = "ssh://" if not user and port and self.host in _PATH_KINDS else ""
        return f"{scheme}{user}{host}{port}"


@dataclass(frozen=True, slots=True)
class FileTarget:
    """A raw image file."""

    path: str

    kind: ClassVar[TargetKind] = TargetKind.FILE

    def __post_init__(self) -> None:
        _check_path(self.path)

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.path}"


@dataclass(frozen=True, slots=True)
class Qcow2Target:
    """A directory of qcow2 files, one per recovery point."""

    path: str

    kind: ClassVar[TargetKind] = TargetKind.QCOW2

    def __post_init__(self) -> None:
        _check_path(self.path)

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.path}"


@dataclass(frozen=True, slots=True)
class ArchiveTarget:
    """A directory of stream files with a manifest."""

    path: str

    kind: ClassVar[TargetKind] = TargetKind.ARCHIVE

    def __post_init__(self) -> None:
        _check_path(self.path)

    def __str__(self) -> str:
        return f"{self.kind.value}:{self.path}"


Target = HostTarget | FileTarget | Qcow2Target | ArchiveTarget

_PATH_KINDS: dict[str, type[FileTarget] | type[Qcow2Target] | type[ArchiveTarget]] = {
    "file": FileTarget,
    "qcow2": Qcow2Target,
    "archive": ArchiveTarget,
}


class TargetSpec:
    """Reads what a person typed."""

    @staticmethod
    def parse(text: str) -> Target:
        """The target that ``text`` names; ``str()`` of it gives a text that parses to the same. Raises UsageError."""
        kind, colon, rest = text.partition(":")
        if colon and kind in _PATH_KINDS:
            return _PATH_KINDS[kind](rest)
        return _parse_host(text, text.removeprefix("ssh://"))


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


def _check_path(path: str) -> None:
    if not path.startswith("/") or not path.isprintable() or len(path.encode(errors="replace")) > _MAX_PATH:
        raise UsageError(f"{path[:100]!r} is not an absolute path", hint=_HINT)


def _refusal(text: str, what: str) -> UsageError:
    return UsageError(f"{text[:100]!r} is not {what}", hint=_HINT)

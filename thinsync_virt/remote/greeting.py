r"""How both sides greet: one line each, sent at once, before anything is read.

::

    THINSYNC-VM {"boot_id": "<uuid>", "hostname": "beta", "package": "0.1.0", "protocols": [1]}\n

At most 4096 bytes, ASCII. ``protocols`` are the versions that a side speaks; the highest common one is used. Keys
that are not known are ignored, here only, so that later versions can say more. Anything before the magic is
what a login shell printed: an error that quotes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from thinsync_virt.errors import StreamError, UnreachableError
from thinsync_virt.model.text import printable
from thinsync_virt.remote.channel import Channel
from thinsync_virt.remote.messages import ChannelClosedError
from thinsync_virt.stream.jsontext import decode_object, encode_object

MAGIC = b"THINSYNC-VM "
PROTOCOLS = (1,)
MAX_LINE = 4096
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Greeting:
    """Who a side is. ``boot_id`` is the kernel's: equal only on one running machine."""

    protocols: tuple[int, ...]
    package: str
    boot_id: str
    hostname: str


def our_greeting(package: str, hostname: str, protocols: tuple[int, ...] = PROTOCOLS) -> Greeting:
    """The greeting of this machine."""
    return Greeting(protocols, package, _BOOT_ID.read_text("ascii").strip(), hostname)


def encode_greeting(greeting: Greeting) -> bytes:
    """The line that is sent."""
    body = encode_object(
        {
            "protocols": list(greeting.protocols),
            "package": greeting.package,
            "boot_id": greeting.boot_id,
            "hostname": greeting.hostname,
        }
    )
    return MAGIC + body + b"\n"


def parse_greeting(line: bytes, name: str) -> Greeting:
    """From the first line that ``name`` sent. Raises UnreachableError when it is no greeting."""
    if not line.startswith(MAGIC):
        raise UnreachableError(
            f"{name}: its first output is no greeting of thinsync-vm: {_quote(line)}",
            hint="the login there says it: a shell that prints on standard output (.bashrc, .profile, motd) has to"
            " print nothing when it is not interactive; if this login may run no commands, name another:"
            " --to USER@HOST",
            retry=False,
        )
    try:
        fields = decode_object(line.removeprefix(MAGIC), "its greeting")
        return Greeting(
            protocols=_protocols(fields.get("protocols")),
            package=_text(fields.get("package"), re.compile(r"[A-Za-z0-9.+~-]{1,64}")),
            boot_id=_text(fields.get("boot_id"), _UUID),
            hostname=_text(fields.get("hostname"), re.compile(r"[A-Za-z0-9._-]{1,255}")),
        )
    except StreamError as error:
        raise UnreachableError(f"{name}: {error.message}", hint=error.hint, retry=False) from error


def exchange(channel: Channel, ours: Greeting, name: str, timeout: float) -> tuple[Greeting, int]:
    """Greet the other side, called ``name``: its greeting, and the protocol version to speak.

    ``timeout`` is in seconds. Raises UnreachableError; ChannelClosedError when it ended without a word.
    """
    channel.send_bytes(encode_greeting(ours))
    try:
        line = channel.read_line(MAX_LINE, timeout)
    except TimeoutError as error:
        raise UnreachableError(
            f"{name}: no greeting within {timeout:g} s",
            hint="look at the load there, and whether it answers by hand: thinsync-vm --version",
        ) from error
    if not line:
        raise ChannelClosedError(f"{name}: it did not greet")
    theirs = parse_greeting(line, name)
    return theirs, _choose(ours, theirs, name)


def _choose(ours: Greeting, theirs: Greeting, name: str) -> int:
    common = set(ours.protocols) & set(theirs.protocols)
    if common:
        return max(common)
    older = "this host" if max(ours.protocols) < max(theirs.protocols) else name
    raise UnreachableError(
        f"{name} runs thinsync-virt {theirs.package} (protocols {_list(theirs.protocols)}), "
        f"this host {ours.package} (protocols {_list(ours.protocols)}): they have none in common",
        hint=f"upgrade thinsync-virt on {older}: it is the older one",
        retry=False,
    )


def refuse_same_machine(ours: Greeting, theirs: Greeting, name: str) -> None:
    """Raise UnreachableError when both ends are one machine."""
    if ours.boot_id == theirs.boot_id:
        raise UnreachableError(f"{name} is this machine", hint="name the other host", retry=False)


def _list(versions: tuple[int, ...]) -> str:
    return ", ".join(str(version) for version in sorted(versions))


def _quote(line: bytes) -> str:
    first = line.splitlines()[0] if line.strip() else line
    return repr(printable(first.decode("utf-8", "replace"), 200))


def _protocols(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= 64:
        raise StreamError("its greeting names no protocols")
    for version in value:
        if type(version) is not int or not 0 <= version < 1 << 16:
            raise StreamError("its greeting names a protocol that is no version number")
    return tuple(value)


def _text(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise StreamError("its greeting is not acceptable")
    return value

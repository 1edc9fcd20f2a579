"""Serial ports, consoles, channels: files, devices and sockets of the host behind them."""

from __future__ import annotations

import os

from thinsync_virt.hypervisor.markup import Element, drop_attributes, remove, remove_all, value_at
from thinsync_virt.hypervisor.replica.draft import Draft

_KINDS = ("serial", "parallel", "console", "channel", "redirdev", "smartcard")
_PORTS = ("/dev/tty", "/dev/parport")
_WRITABLE = ("/var/log/", "/var/lib/libvirt/")
# A device of the guest stays, with nothing but a pseudo-terminal, or nothing, behind it.
_REPLACEMENT = {"serial": "pty", "console": "pty", "parallel": "null", "channel": "null"}


def map_character_devices(draft: Draft) -> None:
    """The guest keeps its ports; what is not on this host is replaced behind them."""
    for kind in _KINDS:
        for element in draft.devices(kind):
            _map_log(draft, element, kind)
            if missing := _missing(draft, element):
                _replace(draft, element, kind, missing)


def _missing(draft: Draft, element: Element) -> str:
    """What of the host this port needs and does not find here; "" when all is well."""
    backend = element.get("type", "")
    path = value_at(element, "source", "path")
    if backend == "pty":
        remove_all(element, "source")
        drop_attributes(element, "tty")
    elif backend == "file":
        return "" if _can_write(draft, path) else path
    elif backend == "dev":
        here = draft.facts.files.get(path)
        return "" if here is not None and here.kind == "char" and path.startswith(_PORTS) else path
    elif backend == "pipe":
        here = draft.facts.files.get(path)  # QEMU would write to a file or a disk of that name, too
        return "" if here is not None and here.kind == "fifo" else path
    elif backend == "unix" and path:
        here = draft.facts.files.get(path)
        if value_at(element, "source", "mode") == "connect":
            return "" if here is not None else path
        free = here is None or here.kind == "socket"  # what is there is removed first
        return "" if free and draft.facts.is_directory(os.path.dirname(path)) else path
    elif backend in ("tcp", "udp"):
        host = next((s.get("host", "") for s in element.iterfind("source[@mode='bind']")), "")
        return "" if not host or host in draft.facts.addresses else f"address {host}"
    return ""


def _can_write(draft: Draft, path: str) -> bool:
    """Whether the host's log daemon, which is root's, may write this file: only where logs and guests' files are."""
    plain = os.path.normpath(path) == path and path.startswith(_WRITABLE)
    here = draft.facts.files.get(path)
    return plain and draft.facts.is_directory(os.path.dirname(path)) and (here is None or here.kind == "file")


def _replace(draft: Draft, element: Element, kind: str, missing: str) -> None:
    subject = f"{kind} {value_at(element, 'target', 'name') or value_at(element, 'target', 'port')}".strip()
    if kind not in _REPLACEMENT:
        remove(element)
        draft.warn(subject, f"{missing} is not usable on this host: the device is left out")
        return
    remove_all(element, "source", "protocol")
    element.set("type", _REPLACEMENT[kind])
    if not _repeats_serial(element):
        draft.warn(
            subject, f"{missing} is not usable on this host: the port leads to {_REPLACEMENT[kind]} here"
        )


def _repeats_serial(element: Element) -> bool:
    """libvirt writes the first serial port a second time, as a console: said once is enough."""
    return element.tag == "console" and value_at(element, "target", "type") == "serial"


def _map_log(draft: Draft, element: Element, kind: str) -> None:
    for log in element.findall("log"):
        path = log.get("file", "")
        if not _can_write(draft, path):
            remove(log)
            if not _repeats_serial(element):
                draft.warn(kind, f"{path} is not a place for logs on this host: nothing is logged there")

"""Devices that are a piece of the source host: left out where this host has no such piece, and reported."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable

from thinsync_virt.hypervisor.markup import Element, drop_attributes, remove, remove_all, text_at, value_at
from thinsync_virt.hypervisor.replica.draft import Draft

_ADDRESS = ("uuid", "domain", "bus", "device", "slot", "function", "target", "unit")
_ITCO_SINCE = 9_001_000  # libvirt 9.1
_RANDOM = "/dev/urandom"
_RANDOM_SOURCES = (_RANDOM, "/dev/random", "/dev/hwrng")
_NETWORK = ("tcp", "udp")
_SHARES = ("/srv/", "/mnt/", "/media/", "/export/", "/home/", "/var/lib/libvirt/")


def make_devices_safe(draft: Draft) -> None:
    """Each kind by its own rule; aliases that libvirt gave are dropped everywhere, a user's own (``ua-``) stay."""
    for element in list(draft.root.iterfind("devices/*")):
        for alias in element.findall("alias"):
            if not alias.get("name", "").startswith("ua-"):
                remove(alias)
        if (rule := _RULES.get(str(element.tag))) is not None:
            rule(draft, element)


def _host_device(draft: Draft, element: Element) -> None:
    remove(element)
    address = element.find("source/address")
    vendor = value_at(element, "source/vendor", "id")
    what = vendor and f"{vendor}:{value_at(element, 'source/product', 'id')}"
    if not what and address is not None:
        what = " ".join(f"{name}={address.get(name)}" for name in _ADDRESS if address.get(name))
    draft.warn(
        "hostdev",
        f"host device {what or 'without address'} does not travel: the replica does not have it",
        f"add one of this host after a failover: virsh attach-device {shlex.quote(draft.name)} FILE --config",
    )


def _file_system(draft: Draft, element: Element) -> None:
    path = (
        value_at(element, "source", "dir")
        or value_at(element, "source", "file")
        or value_at(element, "source", "socket")
    )
    subject = f"filesystem {value_at(element, 'target', 'dir')}"
    # A definition from elsewhere must not open any directory of this host to its guest.
    plain = path.rstrip("/")
    if not (draft.facts.has(path) and os.path.normpath(plain) == plain and plain.startswith(_SHARES)):
        remove(element)
        places = " ".join(_SHARES)
        draft.warn(
            subject,
            f"{path or 'the share'} is not on this host, or not below one of {places}: it is left out",
            f"add it here when it is needed: virsh attach-device {shlex.quote(draft.name)} FILE --config",
        )
        return
    for binary in element.findall("binary"):
        drop_attributes(binary, "path")  # this host's virtiofsd, which runs as root
    draft.warn(subject, f"the content of {path or 'the share'} does not travel: the replica sees this host's")


def _shared_memory(draft: Draft, element: Element) -> None:
    path = value_at(element, "server", "path")
    subject = f"shmem {element.get('name', '')}"
    if path and not draft.facts.has(path):
        remove(element)
        draft.warn(subject, f"{path} is not on this host: the device is left out")
    else:
        draft.info(subject, "the content of shared memory does not travel")


def _random(draft: Draft, element: Element) -> None:
    backend = element.find("backend")
    if backend is not None and backend.get("model") == "egd" and backend.get("type") not in _NETWORK:
        remove(element)
        draft.warn("rng", "its source is a port of the other host: the device is left out")
    if backend is None or backend.get("model") != "random":
        return
    path = (backend.text or "").strip()
    if path and not (draft.facts.has(path) and path in _RANDOM_SOURCES):
        backend.text = _RANDOM
        draft.warn("rng", f"{path} is not on this host: {_RANDOM} takes its place")


def _passed_input(draft: Draft, element: Element) -> None:
    path = value_at(element, "source", "evdev") or value_at(element, "source", "dev")
    if path and not (draft.facts.has(path) and path.startswith("/dev/input/")):
        remove(element)
        draft.warn("input", f"{path} is not on this host: the device is left out")


def _smart_card(draft: Draft, element: Element) -> None:
    if element.get("mode") in ("host", "host-certificates"):
        remove(element)
        draft.warn("smartcard", "the card is one of the other host: the device is left out")


def _lease(draft: Draft, element: Element) -> None:
    remove(element)
    draft.warn("lease", f"lock {text_at(element, 'key')} is the other host's: it is left out")


def _socket(draft: Draft, element: Element) -> None:
    if not draft.facts.has("/dev/vhost-vsock"):
        remove(element)
        draft.warn("vsock", "this host has no vhost-vsock: the device is left out", "modprobe vhost_vsock")
    elif value_at(element, "cid", "auto") != "yes":
        draft.info(
            "vsock",
            f"context id {value_at(element, 'cid', 'address')} is fixed: it must be free on this host",
        )


def _watchdog(draft: Draft, element: Element) -> None:
    """Every q35 machine has this one, whether the definition names it (libvirt 9.1 and later) or not."""
    if element.get("model") == "itco" and draft.facts.libvirt_version < _ITCO_SINCE:
        remove(element)
        draft.info("watchdog", "the chipset's own (itco) is not named: this host's libvirt does not know it")


def _persistent_store(draft: Draft, element: Element) -> None:
    path = text_at(element, "path")
    draft.warn("pstore", f"the content of {path} does not travel")
    remove_all(element, "path")  # libvirt chooses a place of its own


_RULES: dict[str, Callable[[Draft, Element], None]] = {
    "hostdev": _host_device,
    "filesystem": _file_system,
    "shmem": _shared_memory,
    "rng": _random,
    "input": _passed_input,
    "smartcard": _smart_card,
    "lease": _lease,
    "vsock": _socket,
    "watchdog": _watchdog,
    "pstore": _persistent_store,
}

"""Displays: addresses that this host has, kinds that its QEMU offers."""

from __future__ import annotations

import os
import shlex

from thinsync_virt.hypervisor.markup import Element, drop_attributes, value_at
from thinsync_virt.hypervisor.replica.draft import Draft

_LOOPBACK = "127.0.0.1"


def map_displays(draft: Draft) -> None:
    """Graphics and video; passwords stay."""
    for element in draft.devices("graphics"):
        _map_graphics(draft, element)
    offered = draft.facts.support.videos
    for element in draft.devices("video"):
        model = value_at(element, "model", "type")
        if offered and model and model not in offered:
            draft.refuse(
                "video",
                f"model {model} is not offered by this host's QEMU ({', '.join(sorted(offered))})",
                "install its module (qemu-system-modules-spice, qemu-system-gui), or change the model:"
                f" virsh edit {shlex.quote(draft.name)} at the source",
            )


def _map_graphics(draft: Draft, element: Element) -> None:
    kind = element.get("type", "")
    subject = f"graphics {kind}"
    offered = draft.facts.support.graphics
    if offered and kind not in offered:
        draft.refuse(
            subject,
            f"this host's QEMU offers {', '.join(sorted(offered))} only",
            "install its module (qemu-system-modules-spice, qemu-system-gui), or change the kind:"
            f" virsh edit {shlex.quote(draft.name)} at the source",
        )
    _map_address(draft, element, "listen", subject)
    for listen in element.findall("listen"):
        match listen.get("type", ""):
            case "address":
                _map_address(draft, listen, "address", subject)
            case "network":
                _map_listen_network(draft, listen, subject)
            case "socket":
                _map_socket(draft, listen, subject)
            case _:
                pass
    if element.get("autoport") != "yes" and element.get("port", "-1") not in ("-1", "0"):
        draft.info(subject, f"port {element.get('port')} is fixed: it must be free on this host")
    for gl in element.findall("gl[@rendernode]"):
        node = gl.get("rendernode", "")
        if not (draft.facts.has(node) and node.startswith("/dev/dri/")):
            draft.warn(subject, f"{node} is not on this host: libvirt will choose another")
            drop_attributes(gl, "rendernode")


def _map_address(draft: Draft, element: Element, attribute: str, subject: str) -> None:
    address = element.get(attribute, "")
    if not address or address in draft.facts.addresses:
        return
    element.set(attribute, _LOOPBACK)
    if element.tag == "listen":  # the attribute of <graphics> repeats the first of these
        draft.warn(subject, f"address {address} is not one of this host: it listens on {_LOOPBACK} here")


def _map_listen_network(draft: Draft, listen: Element, subject: str) -> None:
    drop_attributes(listen, "address")
    before = listen.get("network", "")
    name = draft.choices.networks.get(before, before)
    if name in draft.facts.networks:
        listen.set("network", name)
        return
    drop_attributes(listen, "network")
    listen.set("type", "address")
    listen.set("address", _LOOPBACK)
    draft.warn(subject, f"network {name} is not on this host: it listens on {_LOOPBACK} here")


def _map_socket(draft: Draft, listen: Element, subject: str) -> None:
    path = listen.get("socket", "")
    if path and not draft.facts.is_directory(os.path.dirname(path)):
        drop_attributes(listen, "socket")
        graphics = listen.getparent()
        if graphics is not None:
            drop_attributes(graphics, "socket")
        draft.warn(subject, f"the directory of {path} is not on this host: libvirt will choose a socket")

"""A lab: two nodes, made, started and ended together."""

from __future__ import annotations

import os
import platform
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from thinlab import health, identity, network, storage
from thinlab.apt import PrivateApt, ensure_host_packages
from thinlab.cache import locked
from thinlab.errors import LabError
from thinlab.guestimage import guest_layer
from thinlab.guests import Guests
from thinlab.kernel import kernel
from thinlab.node import Node
from thinlab.process import say
from thinlab.product import build_deb, depends, install, packaged
from thinlab.rootfs import base_layer, config_layer
from thinlab.state import NODES, RELEASES, Settings, State, default_directory


class Lab:
    """The lab of a directory; nothing happens before a method is called."""

    def __init__(self, directory: Path | str | None = None) -> None:
        self.state = State(Path(directory) if directory is not None else default_directory())
        self.nodes = {name: Node(self.state, name) for name in NODES}
        self.guests = Guests(self)

    def node(self, name: str) -> Node:
        if name not in self.nodes:
            raise LabError(f"no node {name}", f"nodes: {', '.join(self.nodes)}")
        return self.nodes[name]

    def up(self, settings: Settings | None = None, *, with_product: bool = True) -> None:
        """Build what is missing, boot both nodes and make their pools. Settings count only for a new lab."""
        _require_root()
        with locked(self.state.directory / "lock"):
            deb = build_deb() if with_product and packaged() else None
            if not self.state.exists:
                self._create(settings or Settings(), deb)
            identity.create_keys(self.state)
            for node in self.nodes.values():
                if not node.running():
                    say(f"booting {node.name} ({self.state.settings.releases[node.name]})")
                    node.start()
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._ready, self.nodes.values()))
        if deb:
            install(list(self.nodes.values()), deb)
        say(f"the lab is up: {self.state.directory}")

    def _ready(self, node: Node) -> None:
        node.wait()
        storage.ensure_pool(node, self.state.settings)
        node.flush()
        say(f"{node.name} is ready")

    def _create(self, settings: Settings, deb: Path | None) -> None:
        ensure_host_packages()
        extra = depends(deb) if deb else []
        apt = PrivateApt()
        releases = sorted(set(settings.releases.values()))
        with ThreadPoolExecutor() as pool:
            bases = {release: pool.submit(base_layer, apt, release, extra) for release in releases}
            guest = pool.submit(guest_layer, apt)
            machine = kernel(apt)
            top = [guest.result(), machine.layer, config_layer()]
            layers = {
                name: [str(path) for path in (*top, bases[settings.releases[name]].result())]
                for name in NODES
            }
        settings = replace(
            settings, layers=layers, kernel=str(machine.program), kernel_arguments=list(machine.arguments)
        )
        self.state.save(self.state.place_data(settings))

    def boot(self, name: str) -> None:
        """Boot on the same disks. Raises VolumeGroupLost (the node is new then) where a volatile cut tore vg0."""
        node = self.node(name)
        node.boot()
        cut = node.was_cut()
        if cut and (said := health.group_trouble(node)):
            self.renew(name, f"the power cut fell inside an LVM command: {said}")
            raise health.VolumeGroupLost(f"{name} lost vg0 at the power cut: {said}", "run it again")

    def renew(self, name: str, why: str) -> None:
        """Make a broken node anew: disks, /etc and /var as at the first ``up``; its identity stays."""
        say(f"{name} is made anew: {why}")
        node = self.node(name)
        with locked(self.state.directory / "lock"):
            node.discard()
            node.start()
            self._ready(node)
        if packaged():
            install([node])

    def heal(self) -> list[str]:
        """Boot nodes that are off, and make anew those that are broken; the names of these."""
        renewed = []
        for name, node in self.nodes.items():
            node.start()
            if said := health.trouble(node):
                self.renew(name, said)
                renewed.append(name)
        return renewed

    def cut(self, name: str, *, volatile: bool = False, seed: int | None = None) -> None:
        """Power cut; ``volatile``: the disks lose a part of what was not flushed, chosen by ``seed`` (printed)."""
        if not volatile:
            self.node(name).cut()
            return
        chosen = secrets.randbits(32) if seed is None else seed
        say(f"power cut of {name} that loses what was not flushed, seed {chosen}")
        self.node(name).cut(volatile_seed=chosen)

    def status(self) -> dict[str, dict[str, str]]:
        """What each node is and does, in words."""
        settings = self.state.settings
        rows = {}
        for name, node in self.nodes.items():
            up = node.running()
            row = {
                "power": "on" if up else "off",
                "release": settings.releases[name],
                "network": str(network.fault(self.state, name)),
            }
            if up:
                row |= storage.describe(node)
            rows[name] = row
        return rows

    def down(self, *, wipe: bool = False) -> None:
        """Switch both nodes off and give back processes, mounts and network; with ``wipe`` also disks and identity."""
        with locked(self.state.directory / "lock"):
            for node in self.nodes.values():
                node.cut()
                node.unmount()
            network.remove(self.state)
        if wipe:
            self.state.wipe()


def chosen_releases(words: list[str]) -> dict[str, str]:
    """``--release 13`` for both nodes, ``--release alpha=13`` for one."""
    releases = dict(Settings().releases)
    for word in words:
        name, _, release = word.rpartition("=")
        if release not in RELEASES or (name and name not in NODES):
            raise LabError(f"unknown release {word!r}", f"NODE=RELEASE or RELEASE, of {', '.join(RELEASES)}")
        for node in [name] if name else NODES:
            releases[node] = RELEASES[release]
    return releases


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab needs root (mounts, network namespaces, packages)", "sudo tests/lab/lab up")
    if platform.machine() != "x86_64":
        raise LabError(f"user-mode Linux runs on amd64, not on {platform.machine()}", "use an amd64 machine")

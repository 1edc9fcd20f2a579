"""Who a node is: name, machine id, addresses and keys, written once into its own layer."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from thinlab import network
from thinlab.process import run
from thinlab.state import NODES, State


def lab_key(state: State) -> Path:
    """The private key with which this machine enters the nodes."""
    return state.directory / "keys" / "lab"


def known_hosts(state: State) -> Path:
    return state.directory / "keys" / "known_hosts"


def create_keys(state: State) -> None:
    """Keys of the lab, of each node's root and of each node's sshd."""
    directory = state.directory / "keys"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("lab", *(f"{kind}-{node}" for kind in ("root", "host") for node in NODES)):
        if not (directory / name).exists():
            run(
                [
                    "ssh-keygen",
                    "-q",
                    "-t",
                    "ed25519",
                    "-N",
                    "",
                    "-C",
                    f"thinlab {name}",
                    "-f",
                    str(directory / name),
                ]
            )
    known_hosts(state).write_text(
        "".join(
            f"{node},{network.ADDRESSES[node]} {(directory / f'host-{node}.pub').read_text()}"
            for node in NODES
        )
    )


def write(state: State, name: str, upper: Path) -> None:
    """Fill the node's own layer, before its first boot."""
    keys = state.directory / "keys"
    authorized = "".join(
        (keys / f"{key}.pub").read_text() for key in ("lab", *(f"root-{node}" for node in NODES))
    )
    machine_id = hashlib.sha256(f"{state.tag} {name}".encode()).hexdigest()[:32]
    hosts = "127.0.0.1 localhost\n" + "".join(f"{network.ADDRESSES[node]} {node}\n" for node in NODES)
    _put(upper, "etc/hostname", f"{name}\n")
    _put(upper, "etc/machine-id", f"{machine_id}\n", 0o444)
    _put(upper, "etc/hosts", hosts)
    _put(upper, "etc/fstab", "")
    _put(upper, "etc/resolv.conf", "")
    _put(upper, "etc/ssh/ssh_host_ed25519_key", (keys / f"host-{name}").read_text(), 0o600)
    _put(upper, "etc/ssh/ssh_host_ed25519_key.pub", (keys / f"host-{name}.pub").read_text())
    _put(upper, "etc/ssh/ssh_known_hosts", known_hosts(state).read_text())
    (upper / "root").mkdir(mode=0o700, exist_ok=True)
    _put(upper, "root/.ssh/authorized_keys", authorized, 0o600)
    _put(upper, "root/.ssh/id_ed25519", (keys / f"root-{name}").read_text(), 0o600)
    _put(upper, "root/.ssh/id_ed25519.pub", (keys / f"root-{name}.pub").read_text())
    _put(upper, "home/op/.ssh/authorized_keys", authorized, 0o600)
    for path in (upper / "root/.ssh", upper / "home/op/.ssh"):
        path.chmod(0o700)
    for path in (upper / "home/op", upper / "home/op/.ssh", upper / "home/op/.ssh/authorized_keys"):
        os.chown(path, 1000, 1000)  # the first user that useradd makes


def _put(upper: Path, path: str, text: str, mode: int = 0o644) -> None:
    file = upper / path
    for parent in reversed(file.relative_to(upper).parents):
        (upper / parent).mkdir(mode=0o755, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)

"""The network between the nodes: a network namespace with a bridge, one tap per node, and faults on the taps."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from thinlab.errors import LabError
from thinlab.process import run
from thinlab.state import NODES, State

HOST = "10.77.0.254"
ADDRESSES = {name: f"10.77.0.{number}" for number, name in enumerate(NODES, 1)}


def mac(name: str) -> str:
    """Fixed: with a random one, a peer's stale ARP entry makes a quick restart look like a hang of 30 s."""
    return f"02:00:00:00:00:{NODES.index(name) + 1:02x}"


def tap(name: str) -> str:
    return f"tap-{name}"


def exists(state: State) -> bool:
    return Path("/run/netns", state.netns).exists()


def inside(state: State) -> list[str]:
    """The words that put a command into the lab's network."""
    return ["nsenter", f"--net=/run/netns/{state.netns}"]


def create(state: State) -> None:
    if exists(state):
        return
    run(["ip", "netns", "add", state.netns], hint="network namespaces need root and CAP_SYS_ADMIN")
    ip = ["ip", "-netns", state.netns]
    run([*ip, "link", "set", "lo", "up"])
    run([*ip, "link", "add", "br0", "type", "bridge"])
    run([*ip, "address", "add", f"{HOST}/24", "dev", "br0"])
    run([*ip, "link", "set", "br0", "up"])
    for name in NODES:
        run(
            [*inside(state), "ip", "tuntap", "add", "dev", tap(name), "mode", "tap"],
            hint="is /dev/net/tun there?",
        )
        run([*ip, "link", "set", tap(name), "master", "br0", "up"])


def remove(state: State) -> None:
    if exists(state):
        run(["ip", "netns", "delete", state.netns])


@dataclass(frozen=True)
class Fault:
    """What is wrong with a node's cable, kept in the node's directory: it outlives a power cut of the node."""

    off: bool = False
    delay: str = ""  # ms
    loss: str = ""  # per cent
    rate: str = ""  # Mbit/s

    def __str__(self) -> str:
        words = [
            f"delay {self.delay} ms" if self.delay else "",
            f"loss {self.loss} %" if self.loss else "",
            f"rate {self.rate} Mbit/s" if self.rate else "",
        ]
        return ", ".join(["off" if self.off else "on", *filter(None, words)])


def fault(state: State, name: str) -> Fault:
    file = state.node_directory(name) / "net.json"
    return Fault(**json.loads(file.read_text())) if file.exists() else Fault()


def _number(text: str) -> bool:
    return re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) is not None


def changed(old: Fault, action: str, value: str) -> Fault:
    """The fault after ``off``, ``on``, ``delay MS``, ``loss P`` or ``rate MBIT``; ``on`` heals everything."""
    match action:
        case "off":
            return replace(old, off=True)
        case "on":
            return Fault()
        case "delay" if _number(value):
            return replace(old, delay=value)
        case "loss" if _number(value):
            return replace(old, loss=value)
        case "rate" if _number(value) and float(value) > 0:
            return replace(old, rate=value)
    raise LabError(
        f"net: cannot do {action} {value}".rstrip(), "net NODE off | on | delay MS | loss PERCENT | rate MBIT"
    )


def store(state: State, name: str, new: Fault) -> None:
    (state.node_directory(name) / "net.json").write_text(json.dumps(asdict(new)) + "\n")


def partition(state: State) -> None:
    """Part the nodes from each other if any is off. The lab itself still reaches both, to see what they do."""
    isolated = "on" if any(fault(state, name).off for name in NODES) else "off"
    for name in NODES:
        run(
            [
                "ip",
                "-netns",
                state.netns,
                "link",
                "set",
                "dev",
                tap(name),
                "type",
                "bridge_slave",
                "isolated",
                isolated,
            ]
        )


def netem_script(name: str, new: Fault) -> str:
    """Shell for the node: delay, drop and slow down what it sends to the others (the host may lack netem)."""
    words = [
        f"delay {new.delay}ms" if new.delay else "",
        f"loss {new.loss}%" if new.loss else "",
        f"rate {new.rate}mbit" if new.rate else "",
    ]
    faults = " ".join(filter(None, words))
    lines = ["tc qdisc del dev vec0 root 2>/dev/null || true"]
    if faults:
        lines += [
            "tc qdisc add dev vec0 root handle 1: prio bands 4 priomap " + " ".join("0" * 16),
            f"tc qdisc add dev vec0 parent 1:4 netem limit {20000 if new.delay else 1000} {faults}",
        ]
        lines += [
            f"tc filter add dev vec0 parent 1: protocol ip u32 match ip dst {address}/32 flowid 1:4"
            for peer, address in ADDRESSES.items()
            if peer != name
        ]
    return "set -e\n" + "\n".join(lines) + "\n"

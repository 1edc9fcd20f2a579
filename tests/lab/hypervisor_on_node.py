"""Runs on a node, by its Python and with the installed product: definitions travel, replicas are registered.

``python3 hypervisor_on_node.py WHAT ARGUMENTS...``: one of the functions below; the last line is its result as JSON.
Its domains and volumes have names that start with ``hypt``.
"""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from thinsync_virt.errors import ConflictError
from thinsync_virt.hypervisor import files, register
from thinsync_virt.hypervisor.definition import domain_root
from thinsync_virt.hypervisor.driver import LibvirtHypervisor
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan
from thinsync_virt.model.definition import unpack
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Choices, Mark

KEY_GROUP = "hyptst-aaaa-bbbb-cccc-dddd-eeee-ffffff"
IMAGES = Path("/var/lib/libvirt/images")
hypervisor = LibvirtHypervisor()


def virsh(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["virsh", "-q", *arguments], check=check, capture_output=True, text=True).stdout


def volume(lv: str) -> str:
    path = f"/dev/vg0/{lv}"
    if not os.path.exists(path):
        subprocess.run(
            ["lvcreate", "-qq", "-y", "-V64M", "-T", "vg0/pool", "-n", lv], check=True, capture_output=True
        )
    return path


def source(name: str, xml: str) -> dict[str, Any]:
    """Define a guest here, start it paused (that makes its NVRAM), and collect its definition."""
    for target in ("vda", "vdb"):
        volume(f"{name}-{target}")
    (IMAGES / f"{name}-seed.iso").write_bytes(f"seed of {name}".encode() * 1000)
    subprocess.run(
        ["virsh", "-q", "define", "/dev/stdin"], input=xml, text=True, check=True, capture_output=True
    )
    virsh("start", "--paused", name)
    running = hypervisor.inspect(name, lambda path: f"not looked up: {path}")
    definition = hypervisor.collect_definition(name, Choices(VolumeName("vg0", "pool")))
    virsh("destroy", name)
    off = hypervisor.collect_definition(name, Choices(VolumeName("vg0", "pool")))
    return {
        "state": running.state,
        "problems": running.problems,
        "sources": {disk.target: disk.source for disk in running.disks},
        "parts": sorted(definition.parts),
        "stable": definition.id == off.id,
        "packed": base64.b64encode(definition.pack()).decode(),
    }


def planned(packed: str, sequence: int) -> ReplicaPlan:
    definition = unpack(base64.b64decode(packed))
    name = domain_root(definition).findtext("name") or ""
    uuid = (domain_root(definition).findtext("uuid") or "").replace("-", "")
    mark = Mark(ReplicaKey(uuid, KEY_GROUP), f"{sequence:032x}"[::-1], sequence)
    paths = {target: volume(f"{name}-p{sequence}-{target}") for target in ("vda", "vdb")}
    return hypervisor.plan_replica(definition, mark, paths, hypervisor.host_facts(definition))


def findings(packed: str) -> list[list[str]]:
    plan = planned(packed, 1)
    found = (*plan.findings, *hypervisor.preflight(plan))
    return [[finding.severity, finding.subject, finding.message] for finding in found]


def target(packed: str) -> dict[str, Any]:
    """Register two points one after the other, and start the second."""
    one, two = planned(packed, 1), planned(packed, 2)
    assert not hypervisor.preflight(one)
    assert hypervisor.define_replica(one)
    assert not hypervisor.define_replica(one)
    (before,) = hypervisor.registered(one.name, one.uuid)
    assert hypervisor.define_replica(two)
    (after,) = hypervisor.registered(two.name, two.uuid)
    removed = hypervisor.remove_files(two.uuid)
    virsh("start", "--paused", two.name)
    (active,) = hypervisor.registered(two.name, two.uuid)
    refused = ""
    try:
        hypervisor.define_replica(one)
    except ConflictError as error:
        refused = error.message
    virsh("destroy", two.name)
    return {
        "paths": dict(after.paths),
        "live": dict(active.live_paths),
        "files": list(after.files),
        "gone": sorted(set(before.files) - set(after.files)) == sorted(removed),
        "missing": [path for path, _ in two.files if not os.path.exists(path)],
        "refused": refused,
        "autostart": virsh("dominfo", two.name).split("Autostart:")[1].split()[0],
        "marked": sum(domain.uuid == two.uuid for domain in hypervisor.marked()),
        "differences": list(hypervisor.differences(two)) if active.active else [],
        "problems": list(hypervisor.inspect(two.name, lambda path: path).problems),
    }


def race(packed: str, rounds: str, seed: str) -> dict[str, int]:
    """``virsh start`` at a random moment of a switch; in every second round the switch is killed after its define."""
    chance = random.Random(seed)
    plans = {number: planned(packed, number) for number in (1, 2)}
    count = {"switched": 0, "restored": 0}
    register_names: Any = register
    settle = register._settle
    now = 1
    for turn in range(int(rounds)):
        hypervisor.define_replica(plans[now])
        after = 3 - now
        pause, delay, killed = chance.uniform(0.1, 0.8), chance.uniform(0, 0.8), turn % 2 == 1

        def slow(path: str, data: bytes, pause: float = pause) -> bool:
            time.sleep(pause)
            return files.has_content(path, data)

        def start(delay: float = delay) -> None:
            time.sleep(delay)
            virsh("start", "--paused", plans[1].name)

        def kill(known: object) -> None:
            raise KeyboardInterrupt

        starter = threading.Thread(target=start)
        starter.start()
        register_names.has_content = slow
        register_names._settle = kill if killed else settle
        restored = False
        try:
            hypervisor.define_replica(plans[after])
        except ConflictError:
            restored = True
        except KeyboardInterrupt:
            pass
        finally:
            register_names.has_content, register_names._settle = files.has_content, settle
        starter.join()
        restored |= hypervisor.restore_active(plans[1].name)
        (domain,) = hypervisor.registered(plans[1].name, plans[1].uuid)
        expected = plans[now if restored else after]
        assert domain.active
        assert dict(domain.paths) == dict(domain.live_paths) == dict(expected.disk_paths), (
            turn,
            domain,
            restored,
        )
        assert domain.mark == expected.mark
        virsh("destroy", plans[1].name)
        now = expected.mark.sequence
        assert not hypervisor.define_replica(plans[now])
        count["restored" if restored else "switched"] += 1
    return count


def clean() -> str:
    """Everything of ours here goes, whatever state it is in."""
    for name in virsh("list", "--all", "--name").split():
        if name.startswith("hypt"):
            virsh("destroy", name, check=False)
            virsh("undefine", "--nvram", "--managed-save", name, check=False)
    listed = subprocess.run(
        ["lvs", "--noheadings", "-o", "lv_name", "vg0"], capture_output=True, text=True, check=True
    )
    for lv in listed.stdout.split():
        if lv.startswith("hypt"):
            subprocess.run(["lvremove", "-qq", "-y", f"vg0/{lv}"], check=False, capture_output=True)
    for directory in (IMAGES, Path("/var/lib/libvirt/qemu/nvram")):
        for pattern in ("hypt*", "thinsync-hypt*"):
            for path in directory.glob(pattern):
                path.unlink()
    return "clean"


if __name__ == "__main__":
    result = globals()[sys.argv[1]](*(sys.stdin.read() if word == "-" else word for word in sys.argv[2:]))
    print(json.dumps(result))

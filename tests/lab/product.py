"""The product on two hosts, as its user meets it: commands, their output, what is on the volumes afterwards."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from seeds import seed
from thinlab import Guest, Lab
from thinlab.guests import Boot
from thinlab.node import Node
from thinlab.process import Result
from thinlab.records import Records

from thinsync_virt.errors import Code

_numbers = itertools.count()
_LVM_CHANGES = re.compile(r"\b(lv|vg|pv)(create|remove|reduce|extend|change|rename|resize|convert)\b")
"""Such a command of a test's own is not at risk at a later cut: LVM flushes nothing."""
PEER = {"alpha": "beta", "beta": "alpha"}


@dataclass
class Hosts:
    """Two hosts. ``alpha`` is the source unless a call says otherwise."""

    lab: Lab
    _guests: list[str] = field(default_factory=list)

    def node(self, name: str) -> Node:
        return self.lab.node(name)

    def sh(self, node: str, line: str, *, check: bool = True, timeout: float = 120) -> str:
        done = self.node(node).run(line, check=check, timeout=timeout)
        if _LVM_CHANGES.search(line):
            self.node(node).flush_volumes()
        return done.stdout.strip()

    # Guests

    def guest(self, *, node: str = "alpha", name: str = "", **options: Any) -> str:
        """A live guest with a writer, of a name that nobody else has."""
        start = options.pop("start", True)
        found = name or f"t{os.getpid() % 10000}x{next(_numbers)}"
        self._guests.append(found)
        self.lab.guests.create(node, Guest(found, **options), start=start)
        return found

    def remove_guests(self) -> None:
        """Domains, volumes, points and files of this test's guests, at both hosts."""
        for name in self._guests:
            for node in ("alpha", "beta"):
                self.forget(node, name)
        self._guests.clear()

    def remove_guest(self, name: str) -> None:
        """One guest with all that is its: those that run cost the others time."""
        self._guests.remove(name)
        for node in ("alpha", "beta"):
            self.forget(node, name)

    def forget(self, node: str, name: str) -> None:
        """Everything of a guest at one host, points included."""
        script = f"""
        virsh destroy {name} >/dev/null 2>&1
        virsh managedsave-remove {name} >/dev/null 2>&1
        virsh undefine {name} --nvram >/dev/null 2>&1
        for pass in 1 2; do
            lvs --noheadings -o vg_name,lv_name --separator / -S 'lv_name=~"^(ts-)?{name}-"' 2>/dev/null |
                xargs -r lvremove -qq -y >/dev/null 2>&1
        done
        rm -f /var/lib/libvirt/qemu/nvram/{name}[-_]* /var/lib/libvirt/images/*{name}-*
        lvs --noheadings -o lv_name -S 'lv_name=~"^(ts-)?{name}-"'
        """
        left = self.node(node).run(script, check=False, timeout=120).stdout.strip()
        assert not left, f"{node} still has {left}"
        self.node(node).flush()

    def restore(self) -> None:
        """Both hosts on, connected, with their daemons running."""
        for name in ("alpha", "beta"):
            node = self.node(name)
            if not node.running():
                self.lab.boot(name)
                # What LVM finished at its activation is not at risk at the next cut.
                node.flush()
            node.net("on")

    def settle(self) -> None:
        """Before the run that will be cut: what LVM wrote for the test itself is not at risk."""
        for name in PEER:
            self.node(name).flush()

    def cut(self, node: str) -> None:
        """Power cut; of what was not flushed a part is lost that depends on the run's seed and on the test."""
        words = f"{seed()} {os.environ.get('PYTEST_CURRENT_TEST', '')} {node}"
        self.lab.cut(node, volatile=True, seed=zlib.crc32(words.encode()))

    # The command

    def thinsync(
        self, *words: str, node: str = "alpha", check: bool = True, timeout: float = 300, env: str = ""
    ) -> Result:
        """``thinsync-vm WORDS``; with ``check`` a failure fails the test and shows what it said."""
        command = ["env", *([env] if env else []), "thinsync-vm", *words]
        done = self.node(node).run(command, check=False, timeout=timeout)
        assert "Traceback" not in done.stderr + done.stdout, done.stderr + done.stdout
        if check:
            assert done.returncode == 0, (
                f"thinsync-vm {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def replicate(self, name: str, *words: str, node: str = "alpha", **options: Any) -> dict[str, Any]:
        """One replication to the other host that must succeed; its report."""
        done = self.thinsync(
            "replicate", name, "--to", PEER[node], *self.pool(words), "--json", *words, node=node, **options
        )
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    @staticmethod
    def pool(words: tuple[str, ...]) -> tuple[str, ...]:
        return () if "--pool" in words else ("--pool", "vg0/pool")

    def refused(
        self, name: str, *words: str, node: str = "alpha", to: str = "", code: str, **options: Any
    ) -> dict[str, Any]:
        """One replication that must fail with this code, its exit status and a hint; the error."""
        words = (*self.pool(words), *words)
        done = self.thinsync(
            "replicate", name, "--to", to or PEER[node], "--json", *words, node=node, check=False, **options
        )
        assert done.returncode != 0, done.stdout
        error: dict[str, Any] = json.loads(done.stdout)["error"]
        assert error["code"] == code, error
        assert done.returncode == Code(code).exit_status, error
        assert error["hint"], error
        return error

    def start_replicating(
        self, name: str, *words: str, node: str = "alpha", env: str = ""
    ) -> subprocess.Popen[bytes]:
        """A replication in the background."""
        self.settle()
        command = [
            "env",
            *([env] if env else []),
            "thinsync-vm",
            "replicate",
            name,
            "--to",
            PEER[node],
            *self.pool(words),
            *words,
        ]
        return self.node(node).popen(command)

    def mapped(self, name: str, *, node: str = "alpha") -> dict[str, int]:
        """Bytes that each disk of a domain has mapped now, by target."""
        rows = json.loads(self.thinsync("list", "--json", node=node).stdout)
        (row,) = (row for row in rows if row["name"] == name)
        return {disk["target"]: disk["mapped"] for disk in row["disks"] if disk["volume"]}

    def verify(self, name: str, *, node: str = "alpha") -> dict[str, Any]:
        """The newest common point is equal at both ends."""
        report: dict[str, Any] = json.loads(
            self.thinsync("verify", name, "--to", PEER[node], "--json", node=node).stdout
        )
        assert report["equal"], report
        return report

    def points(self, name: str, *, node: str = "alpha") -> list[dict[str, Any]]:
        """Points at both ends, oldest first."""
        done = self.thinsync("points", name, "--to", PEER[node], "--json", node=node)
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    # What is there

    def volumes(self, node: str, name: str) -> dict[str, str]:
        """Our volumes of a guest at a host: name to tags."""
        rows = json.loads(
            self.sh(node, f"""lvs --reportformat json -o lv_name,lv_tags -S 'lv_name=~"^ts-{name}-"'""")
        )
        return {row["lv_name"]: row["lv_tags"] for row in rows["report"][0]["lv"]}

    def unsealed(self, node: str, name: str) -> list[str]:
        """Volumes of sets without a seal: what must not be left behind."""
        tags = self.volumes(node, name)
        sealed = {
            field[2:]
            for text in tags.values()
            for tag in text.split(",")
            if "k=seal&" in tag
            for field in tag.split("&")
            if field.startswith("s=")
        }
        members = {
            volume: next(field[2:34] for field in text.split("&") if field.startswith("s="))
            for volume, text in tags.items()
            if "k=s&" in text or "k=t&" in text
        }
        return sorted(volume for volume, set_id in members.items() if set_id not in sealed)

    def disks(self, node: str, name: str) -> list[str]:
        """VG/LV of the registered domain's disks, in their order."""
        listed = self.sh(node, f"virsh domblklist {name} --details | awk '$2 == \"disk\" {{print $4}}'")
        return [path.removeprefix("/dev/") for path in listed.split()]

    def records(self, node: str, name: str) -> list[Records]:
        """What the writer's records on the registered domain's disks are."""
        return self.lab.guests.records(node, *self.disks(node, name))

    def boot_replica(self, name: str, *, node: str = "beta") -> Boot:
        """A plain ``virsh start``: what the guest found on its disks."""
        before = len(self.lab.guests.boots(node, name))
        self.sh(node, f"virsh start {name}")
        return self.lab.guests.wait_boot(node, name, after=before)

    def acknowledged(self, name: str, *, node: str = "alpha") -> int:
        return self.lab.guests.acknowledged(node, name)

    @contextmanager
    def growing(self, name: str, *, node: str = "alpha", at_least: int = 5) -> Iterator[None]:
        """The writer goes on writing afterwards."""
        yield
        self.wait_writing(name, node=node, at_least=at_least)

    def everything(self, name: str) -> list[str]:
        """All that a run could leave behind of a guest, at both hosts: volumes, tags, activity, domains, files."""
        line = (
            f"""lvs --noheadings -o vg_name,lv_name,lv_size,lv_active,lv_tags -S 'lv_name=~"^(ts-)?{name}-"' | sort;"""
            f" virsh list --all | grep -w {name};"
            " find /var/lib/libvirt/qemu/nvram /var/lib/libvirt/images /run/thinsync/leases -type f 2>/dev/null |"
            f" grep {name} | sort"
        )
        return [self.sh(node, line, check=False) for node in ("alpha", "beta")]

    def windows(self, name: str, *, node: str = "alpha") -> int:
        """How often the guard has touched this guest."""
        line = f"journalctl -q -o cat -t thinsync-vm --no-pager -g '^domain {name}:' | wc -l"
        return int(self.sh(node, line))

    def guard_pauses(self, spec: str = "", *, node: str = "alpha") -> None:
        """Restart the guard so that its windows wait at a step (``frozen:2``); "" as it is installed."""
        text = f"[Service]\nEnvironment=THINSYNC_TEST_PAUSE_AT={spec}\n" if spec else ""
        self.node(node).put("/run/systemd/system/thinsync-guard.service.d/lab.conf", text)
        self.sh(node, "systemctl daemon-reload; systemctl stop thinsync-guard.service")

    def wait_writing(self, name: str, *, node: str = "alpha", at_least: int = 5, limit: float = 60) -> int:
        """Wait until the writer has written so many more records; the last acknowledged."""
        first = self.acknowledged(name, node=node)
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            now = self.acknowledged(name, node=node)
            if now >= first + at_least:
                return now
            time.sleep(0.5)
        raise AssertionError(f"{name} at {node} does not write: {first} records, for {limit} s")


def wait_for(condition: Any, *, limit: float = 60, what: str = "") -> None:
    """Poll until ``condition()`` is true."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        time.sleep(0.3)

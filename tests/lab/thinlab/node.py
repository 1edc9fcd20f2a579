"""One node: its disks and root, boot, power cut, and what can be done in it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from thinlab import identity, network, rootfs, state_image, uml, volatile
from thinlab.cache import locked
from thinlab.errors import LabError
from thinlab.process import Result, run, say
from thinlab.ssh import Connection
from thinlab.state import State

READY = "systemctl is-active -q ssh && virsh -q -c qemu:///system uri >/dev/null && systemctl is-active -q libvirtd"
BOOT_LIMIT = 180


class Node:
    """``alpha`` or ``beta`` of a lab."""

    def __init__(self, state: State, name: str) -> None:
        self.name = name
        self._state = state
        self._directory = state.node_directory(name)
        self.connection = Connection(state, name)

    def as_user(self, user: str) -> Connection:
        """The connection of another login: ``op`` has no rights but sudo."""
        return self.connection if user == "root" else Connection(self._state, self.name, user)

    @property
    def release(self) -> str:
        """Debian's code name."""
        return self._state.settings.releases[self.name]

    @property
    def address(self) -> str:
        return network.ADDRESSES[self.name]

    @property
    def console(self) -> Path:
        """The kernel's and systemd's output."""
        return self._directory / "console.log"

    @property
    def root(self) -> Path:
        """Where this machine sees the node's root. Only look: the node's kernel does not expect changes."""
        return self._directory / "root"

    def _data(self, name: str) -> Path:
        return Path(self._state.settings.data) / self.name / name

    @property
    def disks(self) -> list[Path]:
        """Images behind /dev/ubda (the volume group), /dev/ubdb (free for tests) and /dev/ubdc (/etc and /var)."""
        return [self._data(name) for name in ("ubda.img", "ubdb.img", "ubdc.img")]

    def prepare(self) -> None:
        """Disks, root and identity; what exists stays."""
        settings = self._state.settings
        self._directory.mkdir(parents=True, exist_ok=True)
        upper = self._data("upper")
        fresh = not upper.exists()
        upper.mkdir(parents=True, exist_ok=True)
        for disk, size in zip(self.disks[:2], (settings.disk, settings.spare), strict=True):
            if not disk.exists():
                run(["truncate", "-s", size, str(disk)])
        if fresh or not (upper / "etc/machine-id").exists():
            identity.write(self._state, self.name, upper)
        layers = [Path(layer) for layer in settings.layers[self.name]]
        rootfs.make_overlay(layers, upper, self.root)
        if not (self.root / uml.INIT).exists():
            raise LabError(
                f"the lab in {self._state.directory} was made by an older checkout", "lab up --fresh"
            )
        state_image.make(self.disks[2], self.root)

    def running(self) -> bool:
        return uml.running(self._state, self.name)

    def start(self) -> None:
        """Switch on, without waiting."""
        with locked(self._directory / "lock"):
            if self.running():
                return
            self._hang_up()
            network.create(self._state)
            self.prepare()
            volatile.forget(self.disks)
            self.console.write_text("")
            uml.start(self._state, self.name, self.root, self.disks, self.console)

    def wait(self, limit: float = BOOT_LIMIT) -> None:
        """Wait until sshd and libvirtd answer, and restore what was wrong with its network."""
        deadline = time.monotonic() + limit
        while True:
            if not self.running():
                raise LabError(
                    f"{self.name} stopped while booting; its console ends with:\n{self._last_words()}",
                    f"the whole console: {self.console}",
                )
            try:
                self.connection.open(timeout=10)
                if self.connection.run(READY, check=False, timeout=30).ok:
                    break
            except LabError:
                pass
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.name}: not ready after {limit:g} s; its console ends with:\n{self._last_words()}",
                    f"the console: {self.console}; if ssh answers: `lab run {self.name} systemctl list-jobs`",
                )
            time.sleep(0.2)
        if network.fault(self._state, self.name) != network.Fault():
            self._apply_fault()

    def boot(self, limit: float = BOOT_LIMIT) -> None:
        """Switch on, on the same disks, and wait until it is ready."""
        self.start()
        self.wait(limit)

    def cut(self, *, volatile_seed: int | None = None) -> None:
        """Power cut: the kernel and all its processes are gone when this returns.

        With a seed its disks lose a random part of what they got since their last flush.
        """
        with locked(self._directory / "lock"):
            on = self.running()
            uml.kill(self._state, self.name)
            self._hang_up()
            if volatile_seed is None or not on:
                return
            (self._directory / "cut").touch()
            for lost in volatile.lose(self.disks, volatile_seed):
                say(
                    f"{self.name}: {lost.disk} lost {lost.lost} of {lost.written} sectors written since its last flush"
                )

    def was_cut(self) -> bool:
        """Whether a volatile cut came before this boot; asked once."""
        mark = self._directory / "cut"
        found = mark.exists()
        mark.unlink(missing_ok=True)
        return found

    def discard(self) -> None:
        """Switch off and throw disks and root away; the next start makes them anew, with the same identity."""
        self.cut()
        self.unmount()
        shutil.rmtree(self._data("upper").parent)
        self.was_cut()

    def flush(self) -> None:
        """Have all that is written on stable storage, by whomever: nothing of it is at risk at the next cut."""
        self.run("sync; for disk in /dev/ubd[abc]; do sync $disk; done", timeout=120)

    def flush_volumes(self) -> None:
        """The same for the physical volumes only."""
        self.run("for disk in /dev/ubd[ab]; do sync $disk; done", timeout=120)

    def _hang_up(self) -> None:
        for user in ("root", "op"):
            self.as_user(user).close()

    def _last_words(self) -> str:
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return "\n".join(text.splitlines()[-25:])

    def unmount(self) -> None:
        """Unmount the root; the node is off."""
        for _ in range(50):
            if not self.root.is_mount() or run(["umount", str(self.root)], check=False).ok:
                return
            time.sleep(0.1)
        raise LabError(f"cannot unmount {self.root}", f"who uses it? `fuser -vm {self.root}`")

    def net(self, action: str, value: str = "") -> None:
        """``off`` and ``on`` part it from the other node; ``delay``, ``loss`` and ``rate`` are for what it sends."""
        network.store(
            self._state, self.name, network.changed(network.fault(self._state, self.name), action, value)
        )
        network.partition(self._state)
        if self.running():
            self._apply_fault()

    def disk_rate(self, rate: int) -> None:
        """Each of its disks has so many bytes a second, 0: as fast as it goes; until it is off.

        Raises LabError when it is off, or the rate negative.
        """
        if rate < 0:
            raise LabError(f"a disk of {rate} bytes a second", "a number of MB, 0: as fast as it goes")
        if not self.running():
            raise LabError(f"{self.name} is off", f"lab boot {self.name}")
        volatile.limit(self.disks, rate)

    def _apply_fault(self) -> None:
        network.partition(self._state)
        self.run("sh -s", input=network.netem_script(self.name, network.fault(self._state, self.name)))

    def run(
        self,
        command: Sequence[str] | str,
        *,
        check: bool = True,
        timeout: float = 60,
        input: bytes | str | None = None,
    ) -> Result:
        """Run words, or one line of shell, as root in the node."""
        return self.connection.run(command, check=check, timeout=timeout, input=input)

    def popen(
        self, command: Sequence[str] | str, *, stdin: int | None = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a command as root; its standard output and error are pipes of the result."""
        return self.connection.popen(command, stdin=stdin)

    def put(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """Write a file in the node, whole or not at all."""
        self.run(
            [
                "sh",
                "-c",
                'mkdir -p "$(dirname "$1")" && cat >"$1.put" && chmod "$2" "$1.put" && mv "$1.put" "$1"',
                "sh",
                path,
                f"{mode:o}",
            ],
            input=data,
            timeout=120,
        )

    def get(self, path: str) -> bytes:
        """Read a file of the node."""
        process = self.popen(["cat", path])
        try:
            data, error = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise LabError(f"{self.name}: reading {path} took too long") from None
        if process.returncode:
            raise LabError(f"{self.name}: {error.decode(errors='replace').strip()}")
        return data

    def python(self, source: Path, *arguments: str, timeout: float = 120, check: bool = True) -> Result:
        """Run one of the lab's own programs in the node, as it is in the checkout now."""
        return self.run(
            ["python3", "-I", "-", *arguments], input=source.read_text(), timeout=timeout, check=check
        )

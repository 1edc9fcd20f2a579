"""A throw-away sshd on the loopback interface, with keys of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thinsync_virt.model.targets import HostTarget


@dataclass(frozen=True)
class Sshd:
    """``options`` let ssh use the keys that belong to it, whatever this machine's own configuration says."""

    directory: Path
    port: int

    @property
    def target(self) -> HostTarget:
        return HostTarget(pwd.getpwuid(os.geteuid()).pw_name, "127.0.0.1", self.port)

    @property
    def options(self) -> tuple[str, ...]:
        return ("-F", str(self.directory / "ssh_config"))

    def know(self, public_key: Path | None) -> None:
        """Let the client know this host key, or none."""
        line = f"[127.0.0.1]:{self.port} {public_key.read_text()}" if public_key else ""
        (self.directory / "known_hosts").write_text(line)

    def accept(self, *public_keys: Path) -> None:
        """Let the server accept these keys only."""
        (self.directory / "authorized_keys").write_text("".join(key.read_text() for key in public_keys))

    def key(self, name: str) -> Path:
        """The public half of a key, which is made when it is missing."""
        path = self.directory / name
        if not path.exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, timeout=60
            )
        return path.with_suffix(".pub")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running_sshd(directory: Path) -> Iterator[Sshd]:
    """Start it, knowing and accepting the right keys."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert program is not None, "sshd is missing: apt install openssh-server"
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    sshd = Sshd(directory, free_port())
    sshd.know(sshd.key("host"))
    sshd.accept(sshd.key("user"))
    (directory / "ssh_config").write_text(
        f"IdentityFile {directory}/user\nIdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {directory}/known_hosts\nGlobalKnownHostsFile none\n"
    )
    (directory / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {sshd.port}\nHostKey {directory}/host\nPidFile none\n"
        f"AuthorizedKeysFile {directory}/authorized_keys\nStrictModes no\nPermitRootLogin yes\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
    )
    log = (directory / "sshd.log").open("wb")
    process = subprocess.Popen(
        [program, "-D", "-e", "-f", directory / "sshd_config"], stderr=log, stdin=subprocess.DEVNULL
    )
    try:
        _wait_until_it_listens(process, sshd.port, directory / "sshd.log")
        yield sshd
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, f"sshd ended: {log.read_text()}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"sshd does not listen: {log.read_text()}")

"""Packages: what the host lacks, and packages of several Debian releases without touching the host's own apt.

The private apt has its own state, cache, sources and an empty status file, but keeps the machine's
apt.conf.d and auth.conf.d: how this machine reaches a mirror is its administrator's business.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from thinlab.cache import cache_directory, locked
from thinlab.errors import LabError
from thinlab.process import Result, run, say

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LISTS_LAST = 6 * 3600  # seconds
SUITES = ("bookworm", "trixie", "sid")

# What building and running a lab takes; mmdebstrap and patchelf are unpacked, not installed.
HOST_PACKAGES = (
    *(
        "binutils",
        "debian-archive-keyring",
        "e2fsprogs",
        "gcc",
        "iproute2",
        "libc6-dev",
        "mount",
        "openssh-client",
        "perl",
        "tar",
    ),
    *("util-linux", "zstd"),
)


def host_install(packages: Sequence[str]) -> None:
    """Install packages on this machine, refreshing its package lists once if they are too old for that."""
    say(f"installing on this machine: {' '.join(packages)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    if run(install, timeout=900, check=False, env=env).ok:
        return
    run(
        ["apt-get", "update", "-q"],
        timeout=300,
        env=env,
        hint="let `apt-get update` succeed on this machine first",
    )
    run(install, timeout=900, env=env, hint=f"install these by hand: {' '.join(packages)}")


def ensure_host_packages() -> None:
    """Install what building and running the lab needs and this machine does not have."""
    status = run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *HOST_PACKAGES], check=False
    ).stdout
    missing = [package for package in HOST_PACKAGES if f"{package} installed" not in status.splitlines()]
    if missing:
        host_install(missing)


def mirror() -> str:
    """The Debian mirror: ``THINSYNC_LAB_MIRROR``, or the one that this machine's own apt uses."""
    configured = os.environ.get("THINSYNC_LAB_MIRROR")
    if configured:
        return configured
    lines = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(LABEL)", "Identifier: Packages"]
    ).stdout
    rows = [row for row in (line.split("|") for line in lines.splitlines()) if len(row) == 3]
    for uri, origin, label in sorted(rows):
        if origin == "Debian" and "ecurity" not in label + uri:
            return uri
    for uri, origin, _ in sorted(rows):
        if "/debian" in uri and "security" not in uri and origin.startswith("$"):
            return uri
    raise LabError(
        "this machine's apt knows no Debian mirror",
        "run `apt-get update`, or set THINSYNC_LAB_MIRROR to the URI of a Debian mirror",
    )


class PrivateApt:
    """apt with the releases of ``SUITES`` side by side."""

    def __init__(self) -> None:
        self.directory = cache_directory() / "apt"
        self._env = {**os.environ, "APT_CONFIG": str(self.directory / "apt.conf")}
        self._fresh = False

    def source(self, suite: str) -> str:
        return f"deb [signed-by={KEYRING}] {mirror()} {suite} main"

    def _refresh(self) -> None:
        """Have package lists that are young enough for the mirror to still have what they name."""
        stamp = self.directory / "stamp"
        if self._fresh or (stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_LAST):
            return
        for sub in ("state/lists/partial", "cache/archives/partial"):
            (self.directory / sub).mkdir(parents=True, exist_ok=True)
        (self.directory / "status").write_text("")
        (self.directory / "sources.list").write_text("".join(f"{self.source(suite)}\n" for suite in SUITES))
        settings = {
            "Dir::State": "state",
            "Dir::State::status": "status",
            "Dir::Cache": "cache",
            "Dir::Etc::sourcelist": "sources.list",
        }
        lines = [f'{key} "{self.directory / value}";' for key, value in settings.items()]
        lines += [
            f'Dir::Etc::{key} "/dev/null";' for key in ("sourceparts", "preferences", "preferencesparts")
        ]
        lines += [
            'APT::Sandbox::User "root";',
            'APT::Architecture "amd64";',
            'Acquire::Languages "none";',
            'Acquire::Retries "3";',
            "#clear APT::Update::Post-Invoke-Success;",
            "#clear APT::Update::Post-Invoke;",
        ]
        (self.directory / "apt.conf").write_text("\n".join(lines) + "\n")
        say("reading the package lists of " + ", ".join(SUITES))
        run(
            ["apt-get", "update", "-q"],
            timeout=300,
            env=self._env,
            hint="is the Debian mirror of this machine's apt reachable? THINSYNC_LAB_MIRROR names another",
        )
        stamp.write_text("")
        self._fresh = True

    def unpack(self, specs: Sequence[str], target: Path) -> None:
        """Download packages, each given as ``name/suite``, and unpack them into ``target``."""
        with locked(self.directory.parent / "apt.lock"):
            self._refresh()
        debs = target.with_name(target.name + ".debs")
        shutil.rmtree(debs, ignore_errors=True)
        debs.mkdir(parents=True)
        download = ["apt-get", "download", "-q", *specs]
        if not run(download, timeout=600, env=self._env, cwd=str(debs), check=False).ok:
            # The mirror may have moved on since the lists were read.
            (self.directory / "stamp").unlink(missing_ok=True)
            self._fresh = False
            with locked(self.directory.parent / "apt.lock"):
                self._refresh()
            run(download, timeout=600, env=self._env, cwd=str(debs), hint="is the Debian mirror reachable?")
        for deb in sorted(debs.glob("*.deb")):
            run(["dpkg-deb", "-x", str(deb), str(target)], timeout=300)
        shutil.rmtree(debs)

    def depends(self, spec: str) -> str:
        """The Depends field of a package given as ``name/suite``."""
        with locked(self.directory.parent / "apt.lock"):
            self._refresh()
        result: Result = run(["apt-cache", "show", spec], env=self._env)
        found = re.search(r"^Depends: (.*)$", result.stdout, re.MULTILINE)
        return found.group(1) if found else ""

    def missing_debs(self, packages: Sequence[str], suite: str, status: Path, target: Path) -> list[Path]:
        """Download into ``target`` what a system with the dpkg ``status`` lacks to have ``packages`` installed."""
        with locked(self.directory.parent / "apt.lock"):
            self._refresh()
            archives = target / "archives"
            (archives / "partial").mkdir(parents=True, exist_ok=True)
            run(
                [
                    *("apt-get", "-q", "-y", "--download-only", "--no-install-recommends"),
                    *("-o", f"Dir::State::status={status}", "-o", f"APT::Default-Release={suite}"),
                    *("-o", f"Dir::Cache::archives={archives}", "-o", "Debug::NoLocking=1"),
                    *("install", *packages),
                ],
                timeout=600,
                env=self._env,
                hint=f"are {' '.join(packages)} in Debian {suite}?",
            )
        return sorted(archives.glob("*.deb"))

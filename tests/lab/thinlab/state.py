"""What one lab is: settings and places, kept in ``lab.json`` of its directory, where every later command finds them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from thinlab.cache import register
from thinlab.errors import LabError
from thinlab.rootfs import CHECKOUT

NODES = ("alpha", "beta")
RELEASES = {"12": "bookworm", "bookworm": "bookworm", "13": "trixie", "trixie": "trixie"}
GIB = 1 << 30


@dataclass(frozen=True)
class Settings:
    """Chosen at the first ``up``; sizes are LVM's or truncate's words (20G, 64K)."""

    releases: dict[str, str] = field(default_factory=lambda: {"alpha": "bookworm", "beta": "trixie"})
    memory: str = "3G"
    disk: str = "20G"
    spare: str = "4G"
    pool: str = "8G"
    chunk: str = "64K"
    data: str = ""  # where disks and writable layers lie
    layers: dict[str, list[str]] = field(default_factory=dict)  # per node, topmost first
    kernel: str = ""
    kernel_arguments: list[str] = field(default_factory=list)


def default_directory() -> Path:
    """``THINSYNC_LAB_DIR``, or ``.lab`` at the top of the checkout."""
    configured = os.environ.get("THINSYNC_LAB_DIR")
    return Path(configured) if configured else CHECKOUT / ".lab"


class State:
    """The directory of one lab."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.tag = "tl" + hashlib.sha256(str(self.directory).encode()).hexdigest()[:6]
        self.netns = self.tag
        self.run = Path("/run/thinlab") / self.tag  # sockets: their path must stay under 108 bytes
        self._file = self.directory / "lab.json"

    @property
    def exists(self) -> bool:
        return self._file.exists()

    @property
    def settings(self) -> Settings:
        self.require()
        return Settings(**json.loads(self._file.read_text()))

    def require(self) -> None:
        """Fail unless a lab was made here."""
        if not self.exists:
            raise LabError(f"no lab in {self.directory}", "start one: tests/lab/lab up")

    def save(self, settings: Settings) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / ".gitignore").write_text("*\n")
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(settings), indent=2) + "\n")
        partial.rename(self._file)
        register(self.tag, self._file)

    def place_data(self, settings: Settings) -> Settings:
        """Choose once where the disks lie: in memory when there is plenty (``THINSYNC_LAB_SHM`` = 0 or 1 decides)."""
        wish = os.environ.get("THINSYNC_LAB_SHM", "auto")
        plenty = min(shutil.disk_usage("/dev/shm").free, _available_memory()) > 16 * GIB
        fast = wish == "1" or (wish not in ("0", "1") and plenty)
        return replace(
            settings, data=f"/dev/shm/thinlab-{self.tag}" if fast else str(self.directory / "data")
        )

    def node_directory(self, name: str) -> Path:
        return self.directory / "nodes" / name

    def ensure_run(self) -> None:
        self.run.mkdir(parents=True, exist_ok=True, mode=0o700)

    def wipe(self) -> None:
        if self.exists:
            shutil.rmtree(self.settings.data, ignore_errors=True)
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0

"""The node's /etc and /var: a file system on a disk of its own, so that a power cut can lose what was not flushed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from thinlab.process import run

SIZE = "2G"
PARTS = ("etc", "var")


def make(image: Path, root: Path) -> None:
    """Make it from the node's tree at its first boot; what exists stays."""
    if image.exists():
        return
    partial = image.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="thinlab-") as name:
        for part in PARTS:
            run(["cp", "-a", str(root / part), f"{name}/{part}"], timeout=300)
        Path(name).chmod(0o755)
        run(["truncate", "-s", SIZE, str(partial)])
        tool = shutil.which("mke2fs") or "/usr/sbin/mke2fs"
        options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        run(
            [
                tool,
                "-q",
                "-F",
                "-t",
                "ext4",
                "-m",
                "0",
                "-J",
                "size=32",
                "-E",
                options,
                "-d",
                name,
                str(partial),
            ],
            timeout=300,
            hint="apt install e2fsprogs",
        )
    partial.rename(image)

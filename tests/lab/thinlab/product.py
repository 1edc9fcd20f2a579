"""The product in the nodes: as its own .deb, or, while it is being written, straight from the checkout."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from thinlab.apt import PrivateApt
from thinlab.cache import built, digest_of
from thinlab.errors import LabError
from thinlab.node import Node
from thinlab.process import run, say
from thinlab.rootfs import CHECKOUT

PACKAGE = "thinsync_virt"
INSTALLED = f"/usr/lib/python3/dist-packages/{PACKAGE}"
SOURCES = (
    PACKAGE,
    "packaging",
    "hooks",
    "pve-plugin",
    "man",
    "Makefile",
    "pyproject.toml",
    "LICENSE",
    "docs",
    "setup.py",
    "setup.cfg",
)


def packaged() -> bool:
    """Whether the checkout can build a package yet."""
    return (CHECKOUT / "packaging/debian/control").exists() and (CHECKOUT / "Makefile").exists()


def build_deb() -> Path:
    """The product's package, built by ``make deb``; kept as long as the sources are the same."""
    if not packaged():
        raise LabError(
            "this checkout has no packaging/debian yet", "`lab sync` copies thinsync_virt without a package"
        )
    paths = [CHECKOUT / name for name in SOURCES if (CHECKOUT / name).exists()]
    entry = built(f"deb-{digest_of(*_without_bytecode(paths))}", _build)
    return next(entry.glob("*.deb"))


def _without_bytecode(paths: list[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return [path for path in files if path.suffix != ".pyc"]


def _build(target: Path) -> None:
    say("building the product's package")
    before = set((CHECKOUT / "dist").glob("*.deb"))
    run(["make", "-C", str(CHECKOUT), "deb"], timeout=900, hint="`make deb` in the checkout shows it in full")
    debs = sorted((CHECKOUT / "dist").glob("thinsync-virt_*.deb"), key=lambda path: path.stat().st_mtime)
    if not debs:
        raise LabError(
            "`make deb` left no dist/thinsync-virt_*.deb",
            f"dist has {sorted(path.name for path in before) or 'nothing'}",
        )
    shutil.copy(debs[-1], target)


def depends(deb: Path) -> list[str]:
    """The packages that a .deb wants, without versions and alternatives."""
    fields = run(
        ["dpkg-deb", "-W", "--showformat", "${Pre-Depends},${Depends},${Recommends}", str(deb)]
    ).stdout
    names = (re.split(r"[(|:\[]", word)[0].strip() for word in fields.split(","))
    return sorted({name for name in names if name})


def install(nodes: list[Node], deb: Path | None = None) -> None:
    """Install the package with dpkg, as an administrator without a network would."""
    package = deb or build_deb()
    for node in nodes:
        place = f"/var/cache/{package.name}"
        digest = digest_of(package)
        if node.run(["cat", "/var/cache/thinlab-installed"], check=False).stdout.strip() == digest:
            continue
        _complete(node, package)
        say(f"installing {package.name} on {node.name}")
        node.put(place, package.read_bytes())
        node.run(
            f"DEBIAN_FRONTEND=noninteractive dpkg -i {place} && rm {place} && "
            f"echo {digest} >/var/cache/thinlab-installed",
            timeout=300,
        )
        node.flush()


def _complete(node: Node, package: Path) -> None:
    """Bring what the package depends on and the node lacks: a lab outlives a change of the dependencies."""
    listing = node.run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}|${Package}|${Provides}\n"]).stdout
    rows = [line.split("|") for line in listing.splitlines() if line.startswith("ii")]
    have = {row[1] for row in rows} | {
        word.split("(")[0].strip() for row in rows for word in row[2].split(",")
    }
    missing = sorted(set(depends(package)) - have)
    if not missing:
        return
    say(f"{node.name} lacks {' '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="thinlab-") as name:
        # Without the product itself: half installed, it would count as something to repair first.
        stanzas = node.get("/var/lib/dpkg/status").decode(errors="replace").split("\n\n")
        status = Path(name) / "status"
        status.write_text(
            "\n\n".join(text for text in stanzas if not text.startswith("Package: thinsync-virt\n"))
        )
        debs = PrivateApt().missing_debs(missing, node.release, status, Path(name))
        for path in debs:
            node.put(f"/var/cache/thinlab-debs/{path.name}", path.read_bytes())
    node.run(
        "DEBIAN_FRONTEND=noninteractive dpkg -i /var/cache/thinlab-debs/*.deb && rm -r /var/cache/thinlab-debs",
        timeout=300,
    )


def sync(nodes: list[Node]) -> None:
    """Put the checkout's modules in place of the installed ones, for the next edit-and-try."""
    source = CHECKOUT / PACKAGE
    if not source.is_dir():
        raise LabError(f"no {source}", "nothing to sync yet")
    buffer = io.BytesIO()

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return None if "__pycache__" in member.name else member

    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        tar.add(source, arcname=PACKAGE, filter=plain)
    for node in nodes:
        node.run(
            f"set -e; new={INSTALLED}.new; rm -rf $new; mkdir -p $new; tar -xzf - -C $new --strip-components=1; "
            f"rm -rf {INSTALLED}; mv $new {INSTALLED}; rm -f /var/cache/thinlab-installed",
            input=buffer.getvalue(),
        )

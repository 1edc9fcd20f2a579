"""The guest, a layer for both nodes: Debian 12's cloud kernel; busybox, qemu-ga and the lab's writer as initramfs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thinlab.apt import PrivateApt
from thinlab.cache import FILES, built, digest_of
from thinlab.errors import LabError
from thinlab.process import run, say

SOURCE = FILES / "guest"
SUITE = "bookworm"
PLACE = "var/lib/thinlab"  # in the node
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "button", "evdev")
LIBRARIES = ("libc6", "libglib2.0-0", "libnuma1", "libudev1", "liburing2", "libpcre2-8-0", "libgcc-s1")
APPLETS = (
    "sh",
    "mount",
    "umount",
    "cat",
    "echo",
    "insmod",
    "hostname",
    "mkdir",
    "dd",
    "hexdump",
    "kill",
    "sleep",
    "sync",
    "poweroff",
    "ls",
    "ps",
    "df",
    "cp",
    "mv",
    "rm",
    "head",
    "tail",
    "wc",
    "cmp",
    "md5sum",
    "sha256sum",
    "grep",
    "sed",
    "awk",
    "touch",
    "date",
    "dmesg",
    "blockdev",
    "fstrim",
    "mkswap",
    "swapon",
    "test",
    "printf",
    "seq",
    "true",
    "false",
    "stat",
    "truncate",
    "reboot",
    "halt",
    "tr",
    "cut",
)


def guest_layer(apt: PrivateApt) -> Path:
    """The layer with kernel and initramfs under ``PLACE``."""
    name = f"guest-{digest_of(SOURCE, Path(__file__))}"
    return built(name, lambda partial: _build(apt, partial)) / "layer"


def _build(apt: PrivateApt, target: Path) -> None:
    say("building the guest (kernel, busybox, qemu-ga, writer)")
    image = re.match(r"(linux-image-\S+)", apt.depends(f"linux-image-cloud-amd64/{SUITE}"))
    if image is None:
        raise LabError(
            f"Debian's {SUITE} has no cloud kernel",
            "let MODULES and SUITE in guestimage.py follow the mirror",
        )
    unpacked = target / "unpacked"
    packages = (image.group(1), "busybox-static", "qemu-guest-agent", *LIBRARIES)
    apt.unpack([f"{package}/{SUITE}" for package in packages], unpacked)
    place = target / "layer" / PLACE
    place.mkdir(parents=True)
    for directory in place.relative_to(target).parents:
        (target / directory).chmod(0o755)
    shutil.copy(next((unpacked / "boot").glob("vmlinuz-*")), place / "vmlinuz")
    compiled = target / "compiled"
    compiled.mkdir()
    for program in ("recorder", "control", "tpm"):
        run(["gcc", "-static", "-O2", "-s", "-o", str(compiled / program), str(SOURCE / f"{program}.c")])
    (place / "initrd").write_bytes(archive(_contents(unpacked, compiled)))
    shutil.rmtree(unpacked)
    shutil.rmtree(compiled)


@dataclass(frozen=True)
class Entry:
    """A member of the initramfs: a file, a symbolic link (mode 0o120777) or a directory (mode 0o40755)."""

    path: str
    mode: int
    data: bytes = b""


def _contents(unpacked: Path, compiled: Path) -> Iterator[Entry]:
    for directory in (
        "bin",
        "sbin",
        "lib",
        "lib64",
        "dev",
        "proc",
        "sys",
        "run",
        "mnt",
        "modules",
        "tmp",
        "etc",
    ):
        yield Entry(directory, 0o40755)
    yield Entry("bin/busybox", 0o100755, next(unpacked.glob("**/bin/busybox")).read_bytes())
    for applet in APPLETS:
        yield Entry(f"bin/{applet}", 0o120777, b"busybox")
    yield Entry("init", 0o100755, (SOURCE / "init").read_bytes())
    yield Entry("bin/magic", 0o100755, (SOURCE / "magic").read_bytes())
    yield Entry("sbin/shutdown", 0o100755, (SOURCE / "shutdown").read_bytes())
    for program in compiled.iterdir():
        yield Entry(f"bin/{program.name}", 0o100755, program.read_bytes())
    agent = next(unpacked.glob("**/sbin/qemu-ga"))
    yield Entry("bin/qemu-ga", 0o100755, agent.read_bytes())
    for name, library in sorted(_needed(agent, unpacked).items()):
        yield Entry(f"lib/{name}", 0o100755, library.read_bytes())
    loader = _own("ld-linux-x86-64.so.2", unpacked)[0]
    yield Entry("lib64/ld-linux-x86-64.so.2", 0o100755, loader.read_bytes())
    order = _with_dependencies(MODULES, unpacked)
    xfs = [module for module in _with_dependencies(("xfs",), unpacked) if module not in order]
    for module in (*order, *xfs):
        yield Entry(f"modules/{module.name}", 0o100644, module.read_bytes())
    yield Entry("modules/order", 0o100644, "".join(f"{module.name}\n" for module in order).encode())
    yield Entry("modules/xfs", 0o100644, "".join(f"{module.name}\n" for module in xfs).encode())


def _needed(program: Path, unpacked: Path) -> dict[str, Path]:
    """The shared libraries of a program, and theirs, by name."""
    found: dict[str, Path] = {}
    waiting = [program]
    while waiting:
        dynamic = run(["readelf", "-d", str(waiting.pop())]).stdout
        for name in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic):
            if name in found:
                continue
            places = _own(name, unpacked)
            if not places:
                raise LabError(
                    f"no package of LIBRARIES has {name}",
                    "add the package that has it to LIBRARIES in guestimage.py",
                )
            found[name] = places[0]
            waiting.append(places[0])
    return found


def _own(name: str, unpacked: Path) -> list[Path]:
    """Files of this name in the unpacked packages; an absolute link there would lead to this machine's own files."""
    found = (path for path in unpacked.rglob(name) if path.exists())
    return [path for path in found if path.resolve().is_relative_to(unpacked.resolve())]


def _with_dependencies(names: tuple[str, ...], unpacked: Path) -> list[Path]:
    """Module files in the order in which to load them; what is not a module is built in."""
    files = {path.name.removesuffix(".ko").replace("-", "_"): path for path in unpacked.rglob("*.ko")}
    order: list[Path] = []

    def visit(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path in order:
            return
        for field in re.findall(rb"\0depends=([^\0]*)\0", b"\0" + path.read_bytes()):
            for dependency in field.decode().split(","):
                visit(dependency)
        order.append(path)

    for name in names:
        visit(name)
    return order


def archive(entries: Iterator[Entry]) -> bytes:
    """A cpio archive ("newc") for the kernel. Not compressed: inflating under emulation costs more than copying."""
    out = bytearray()

    def member(number: int, entry: Entry) -> None:
        name = entry.path.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
        out.extend(b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name)
        out.extend(b"\0" * (-len(out) % 4))
        out.extend(entry.data)
        out.extend(b"\0" * (-len(out) % 4))

    number = 0
    for number, entry in enumerate(entries, 1):
        member(number, entry)
    member(number + 1, Entry("TRAILER!!!", 0))
    return bytes(out)

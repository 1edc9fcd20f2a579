"""User-mode Linux: the newest that runs here, with its modules as an overlay layer.

The entry holds ``linux.uml``, ``lib/`` (a C library for a kernel newer than this machine's), ``layer/usr/lib/modules``
and ``arguments`` (what this kernel wants on its command line).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from thinlab.apt import PrivateApt
from thinlab.cache import built, digest_of
from thinlab.errors import LabError
from thinlab.process import run, say

# (suite of the kernel, suite of the C library put beside it, or "" for the machine's own), best first.
CANDIDATES = (
    ("sid", "trixie"),
    ("sid", "sid"),
    ("trixie", "trixie"),
    ("bookworm", ""),
    ("bookworm", "bookworm"),
)


@dataclass(frozen=True)
class Kernel:
    program: Path
    layer: Path
    arguments: tuple[str, ...]


def kernel(apt: PrivateApt) -> Kernel:
    """The cached kernel, fetched and tried first if there is none."""
    entry = built(f"kernel-{digest_of(Path(__file__))}", lambda partial: _build(apt, partial))
    arguments = tuple((entry / "arguments").read_text().split())
    return Kernel(entry / "linux.uml", entry / "layer", arguments)


def _build(apt: PrivateApt, target: Path) -> None:
    final = target.with_suffix(
        ""
    )  # the interpreter is an absolute path: it must name the place after the rename
    reasons: list[str] = []
    for suite, libc in CANDIDATES:
        for old in target.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        say(f"fetching user-mode Linux from {suite}" + (f" with the C library of {libc}" if libc else ""))
        try:
            _fetch(apt, target, suite, libc)
            _retarget(apt, target, target, libc)
            (target / "arguments").write_text(_supported_arguments(target / "linux.uml"))
            _try(target)
            _retarget(apt, target, final, libc)
        except LabError as error:
            reasons.append(f"{suite}/{libc or 'own'}: {error.message}")
            say(f"that kernel does not run here ({error.message.splitlines()[-1]}); trying the next")
            continue
        return
    raise LabError(
        "no user-mode Linux runs on this machine:\n" + "\n".join(reasons),
        "it needs an amd64 machine that allows ptrace or seccomp (in a container: --security-opt seccomp=unconfined)",
    )


def _fetch(apt: PrivateApt, target: Path, suite: str, libc: str) -> None:
    unpacked = target / "unpacked"
    apt.unpack([f"user-mode-linux/{suite}"], unpacked)
    shutil.move(unpacked / "usr/bin/linux.uml", target / "linux.uml")
    modules = target / "layer/usr/lib/modules"
    modules.parent.mkdir(parents=True)
    shutil.move(unpacked / "usr/lib/uml/modules", modules)
    shutil.rmtree(unpacked)
    if libc:
        apt.unpack([f"libc6/{libc}"], unpacked)
        place = next(path.parent for path in unpacked.rglob("libc.so.6"))
        shutil.copytree(place, target / "lib")
        shutil.rmtree(unpacked)


def _retarget(apt: PrivateApt, target: Path, place: Path, libc: str) -> None:
    """Make linux.uml use ``place``/lib. Starting it through ld.so instead fails: it executes itself again."""
    if not libc:
        return
    tool = target / "tool"
    apt.unpack(["patchelf/bookworm"], tool)
    run(
        [
            str(tool / "usr/bin/patchelf"),
            "--set-interpreter",
            str(place / "lib/ld-linux-x86-64.so.2"),
            "--set-rpath",
            str(place / "lib"),
            str(target / "linux.uml"),
        ]
    )
    shutil.rmtree(tool)


def _supported_arguments(program: Path) -> str:
    """``seccomp=auto`` (two to three times as fast as ptrace) where this kernel knows it."""
    return "seccomp=auto" if "seccomp=" in run([str(program), "--help"], check=False).stdout else ""


def _try(target: Path) -> None:
    """Boot it for a second: an init that ends makes the kernel panic, which proves that user space ran."""
    argv = [
        "env",
        "TMPDIR=/dev/shm",
        str(target / "linux.uml"),
        f"uml_dir={target / 'uml'}",
        "umid=trial",
        "mem=128M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        "init=/bin/true",
        "con=null",
        "con0=null,fd:1",
        *(target / "arguments").read_text().split(),
    ]
    trial = run(argv, timeout=60, check=False)
    shutil.rmtree(target / "uml", ignore_errors=True)
    if "exitcode=0x00000000" not in trial.stdout:
        raise LabError(f"trial boot failed: {trial.stdout.strip()[-300:] or trial.stderr.strip()[-300:]}")

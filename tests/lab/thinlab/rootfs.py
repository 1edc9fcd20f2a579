"""The root file systems of the nodes: one cached tree per Debian release, plus a layer of the lab's own files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from thinlab.apt import PrivateApt
from thinlab.cache import FILES, built, cache_directory, digest_of
from thinlab.process import run, say

CHECKOUT = FILES.parents[2]

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "lvm2",
    "thin-provisioning-tools",
    "dmsetup",
    "kmod",
    "iproute2",
    "iputils-ping",
    "openssh-server",
    "openssh-client",
    "sudo",
    "libvirt-daemon-system",
    "libvirt-clients",
    "qemu-system-x86",
    "qemu-utils",
    "ovmf",
    "swtpm",
    "swtpm-tools",
    "e2fsprogs",
    "xfsprogs",
    "procps",
    "psmisc",
    "python3",
    "python3-libvirt",
    "python3-lxml",
    "python3-click",
    "python3-rich",
    "python3-xxhash",
    "python3-zstandard",
    "python3-numpy",
    "python3-crc32c",
    "python3-tenacity",
    "python3-sdnotify",
    "python3-prometheus-client",
    "python3-yaml",
    "bash-completion",
    "libisal2",
    "fdisk",
    "less",
    "strace",
)

# Units that only cost time in the lab, or that would fail in it. Everything else is what Debian enables.
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "logrotate.timer",
    "xfs_scrub_all.timer",
    "man-db.timer",
    "systemd-tmpfiles-clean.timer",
    "getty@tty1.service",
    "getty-static.service",
    "getty.target",
    "systemd-timesyncd.service",
    "sshd-keygen.service",
    "systemd-networkd-wait-online.service",
    "systemd-networkd.service",
    "systemd-random-seed.service",
    "systemd-pstore.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "ldconfig.service",
    "systemd-journal-catalog-update.service",
    "systemd-update-done.service",
    "systemd-machine-id-commit.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "dev-hugepages.mount",
    "sys-fs-fuse-connections.mount",
    "systemd-tpm2-setup.service",
    "systemd-tpm2-setup-early.service",
    "systemd-pcrmachine.service",
    "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-repart.service",
    "systemd-hibernate-clear.service",
    "libvirt-guests.service",
    "tmp.mount",
)


def base_layer(apt: PrivateApt, release: str, extra: Sequence[str] = ()) -> Path:
    """The cached tree of a Debian release, with the packages of the lab and ``extra`` ones."""
    packages = sorted({*PACKAGES, *extra})
    name = f"root-{release}-{digest_of(' '.join(packages), _CUSTOMIZE)}"
    return built(name, lambda partial: _build(apt, release, packages, partial)) / "tree"


_CUSTOMIZE = (
    "useradd --create-home --shell /bin/bash op && "
    "echo 'op ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/op && chmod 440 /etc/sudoers.d/op && "
    "rm -f /etc/ssh/ssh_host_* /etc/machine-id && "
    "if getent group kvm >/dev/null; then :; else groupadd --system kvm; fi && "
    "systemctl enable ssh libvirtd"
)


def _build(apt: PrivateApt, release: str, packages: list[str], target: Path) -> None:
    packed = cache_directory() / f"{target.with_suffix('').name}.tar.zst"
    tree = target / "tree"
    if packed.exists():
        say(f"unpacking {packed.name}")
        tree.mkdir()
        run(
            ["tar", "-I", "zstd -T0", "--numeric-owner", "--xattrs", "-C", str(tree), "-xf", str(packed)],
            timeout=600,
        )
        return
    say(f"building the root file system of Debian {release} (about a minute)")
    tool = target / "tool"
    apt.unpack(["mmdebstrap/trixie"], tool)
    proxy = run(["apt-config", "shell", "P", "Acquire::http::Proxy"]).stdout.strip()
    options = [f'--aptopt=Acquire::http::Proxy "{proxy[3:-1]}"' if proxy else '--aptopt=Acquire::Retries "3"']
    run(
        [
            "perl",
            str(tool / "usr/bin/mmdebstrap"),
            "--mode=root",
            "--variant=minbase",
            "--skip=check/empty",
            '--aptopt=APT::Install-Recommends "false"',
            '--aptopt=Acquire::Languages "none"',
            *options,
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=force-unsafe-io",
            f"--include={','.join(packages)}",
            f"--customize-hook=chroot \"$1\" sh -ec '{_in_shell(_CUSTOMIZE)}'",
            release,
            str(tree),
            apt.source(release),
        ],
        timeout=1800,
        env={
            **os.environ,
            "PATH": f"{tool / 'usr/bin'}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        },
        hint=f"is each package in Debian {release}? They come from PACKAGES in {__file__} and the product's Depends",
    )
    shutil.rmtree(tool)
    for path in (tree / "var/cache/apt/archives", tree / "var/lib/apt/lists"):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True, exist_ok=True)


def _in_shell(text: str) -> str:
    return text.replace("'", "'\\''")


def pack() -> list[Path]:
    """Write each cached tree into a tar.zst beside it, from which another machine's ``up`` unpacks it."""
    written = []
    for tree in sorted(cache_directory().glob("root-*/tree")):
        packed = tree.parent.with_name(f"{tree.parent.name}.tar.zst")
        if not packed.exists():
            say(f"packing {packed.name}")
            partial = packed.with_name(packed.name + ".partial")
            run(
                [
                    "tar",
                    "-I",
                    "zstd -T0 -6",
                    "--numeric-owner",
                    "--xattrs",
                    "-C",
                    str(tree),
                    "-cf",
                    str(partial),
                    ".",
                ],
                timeout=900,
            )
            partial.rename(packed)
        written.append(packed)
    return written


def config_layer() -> Path:
    """The lab's own files (files/node) and masks, as a layer over the release."""
    source = FILES / "node"
    entry = built(
        f"config-{digest_of(source, ' '.join(MASKED))}", lambda partial: _copy_config(source, partial)
    )
    return entry / "layer"


def _copy_config(source: Path, target: Path) -> None:
    layer = target / "layer"
    for path in sorted(source.rglob("*")):
        copy = layer / path.relative_to(source)
        if path.is_symlink():
            copy.symlink_to(os.readlink(path))
        elif path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
            copy.chmod(0o755)
        else:
            copy.write_bytes(path.read_bytes())
            copy.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    units = layer / "etc/systemd/system"
    for unit in MASKED:
        os.symlink("/dev/null", units / unit)


_LARGE = 1 << 20


def copy_large(layers: Sequence[Path], upper: Path) -> None:
    """Give a new node copies of its own of large files under /var: libvirt opens a guest's kernel and initrd to write.

    overlayfs would copy them at that open; a signal interrupts it, and user-mode Linux has its clock tick by one: where
    the copy takes longer than a tick, the node hangs for ever.
    """
    for layer in layers:
        for path in sorted((layer / "var").rglob("*")):
            copy = upper / path.relative_to(layer)
            if path.is_symlink() or not path.is_file() or path.stat().st_size < _LARGE or copy.exists():
                continue
            for parent in reversed(copy.relative_to(upper).parents):
                if not (upper / parent).exists():
                    (upper / parent).mkdir()
                    _copy_status(
                        next(one / parent for one in layers if (one / parent).is_dir()), upper / parent
                    )
            shutil.copyfile(path, copy)
            _copy_status(path, copy)


def _copy_status(path: Path, copy: Path) -> None:
    status = path.stat()
    os.chown(copy, status.st_uid, status.st_gid)
    shutil.copystat(path, copy)


def make_overlay(layers: list[Path], upper: Path, mount_point: Path) -> None:
    """Mount the node's root: its own writable layer over the shared ones (first layer on top)."""
    if os.path.ismount(mount_point):
        return
    work = upper.with_name(upper.name + ".work")
    for directory in (upper, work, mount_point):
        directory.mkdir(parents=True, exist_ok=True)
    upper.chmod(0o755)
    lower = ":".join(str(layer) for layer in layers)
    run(
        [
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            f"lowerdir={lower},upperdir={upper},workdir={work}",
            str(mount_point),
        ],
        hint="overlayfs cannot write to this directory (a container's own root?): THINSYNC_LAB_SHM=1 uses /dev/shm",
    )

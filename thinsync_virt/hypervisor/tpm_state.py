"""A replica's TPM state on this host: written with its point, and put where libvirt looks for it.

Where the definition names the directory, the define is the switch, as for all else. Where libvirt fixes the place
(before 10.10) it takes three steps, and a start in between must not join one point's disks with another's keys::

    the place holds the older point's state     the definition is of the older point
    the place is held: no emulator takes it     of the older, then of the newer point; a start fails
    the place holds the newer point's state     of the newer point

A point whose TPM has no state, as after it was reset at the source, leaves the place empty in the third step.
A place that is held, after a crash, gets the state of the point that the definition names: at boot before libvirt
starts, by ``recover``, and when the next run begins. Whatever else stands there is left alone.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from thinsync_virt.errors import ConflictError, NotFoundError, StreamError, ThinsyncError
from thinsync_virt.flushes import flush
from thinsync_virt.hypervisor import tpm
from thinsync_virt.hypervisor.files import has_content, read_stable, remove_file, sync_path
from thinsync_virt.hypervisor.mark import read_mark
from thinsync_virt.hypervisor.markup import Element, parse
from thinsync_virt.hypervisor.replica.draft import TpmState
from thinsync_virt.model.definition import MAX_TPM
from thinsync_virt.model.names import short_id

HELD = b"thinsync-virt is changing this TPM's state; if that was interrupted: thinsync-vm recover\n"
"""No TPM's state: the emulator refuses it, and so the domain does not start."""
_QEMU_CONF = "/etc/libvirt/qemu.conf"
_ENTERED = stat.S_IRWXU | stat.S_IXGRP | stat.S_IXOTH
_USERS = ("tss", "swtpm")
_SETTING = re.compile(r'^\s*(swtpm_user|swtpm_group)\s*=\s*"\+?([^"]+)"', re.MULTILINE)


def in_place(state: TpmState) -> bool:
    """Whether a start would take this state; where there is none, whether it would find none."""
    if not state.data:
        return not os.path.lexists(state.place)
    return has_content(state.place or state.path, state.data)


def prepare(state: TpmState, ours: bool, reached: Callable[[str], None]) -> None:
    """Before the define: write the point's state; hold a fixed place that has another one.

    What is found there while the domain is not ``ours`` yet (``undefine --keep-tpm``) is kept beside it. Raises
    ThinsyncError.
    """
    if not has_content(state.path, state.data):
        _write(state.path, state.data)
    reached("TPM state written")
    if not state.place or in_place(state) or has_content(state.place, HELD):
        return
    if not ours and os.path.exists(state.place):
        _keep(state.place)
    _write(state.place, HELD)
    reached("TPM held")


def put_in_place(state: TpmState, reached: Callable[[str], None]) -> None:
    """After the define is on stable storage: end the hold. Raises ThinsyncError."""
    if not state.place:
        return
    if has_content(state.place, HELD):
        _end_hold(state.place, state.data)
    reached("TPM in place")


def finish(root: Element) -> bool:
    """End a hold that a crash left, with the state of the point that this definition names; whether there was one.

    Raises ThinsyncError when that state is gone.
    """
    mark = read_mark(root)
    if mark is None or tpm.emulator_of(root) is None or tpm.tpm_problem(root) is not None:
        return False
    place = tpm.fixed_path(root)
    if not has_content(place, HELD):
        return False
    path = tpm.point_path(root, mark)
    try:
        data = read_stable(path, MAX_TPM)
    except NotFoundError:
        data = None
    if data is None:
        raise ThinsyncError(
            f"the TPM state of point {short_id(mark.point)} is not at {path}: the replica cannot start",
            hint="the next replication brings it; at the source: thinsync-vm replicate DOMAIN --to HOST",
        )
    _end_hold(place, data)
    return True


def held(definitions: str) -> Iterator[tuple[str, str, Element]]:
    """Name, UUID (32 digits) and definition of each replica in that directory whose place is held."""
    for file in sorted(Path(definitions).glob("*.xml")):
        try:
            root = parse(file.read_bytes(), str(file))
            mark = read_mark(root)
            if mark is None or tpm.emulator_of(root) is None or tpm.tpm_problem(root) is not None:
                continue
        except (OSError, StreamError, ConflictError):
            continue
        if has_content(tpm.fixed_path(root), HELD):
            yield file.stem, mark.key.domain, root


def remove_old(domain: str, used: set[str]) -> list[str]:
    """Remove the states of a domain's points but for those whose short id is in ``used``; what was removed."""
    removed = []
    for directory in tpm.directories_of(domain):
        for path in sorted(Path(directory).glob("thinsync-*")):
            point = tpm.point_of(path.name)
            if point is not None and point not in used and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
                removed.append(str(path))
    return removed


def _end_hold(place: str, data: bytes) -> None:
    if data:
        _write(place, data)
        return
    try:
        remove_file(place)
        sync_path(os.path.dirname(place))
    except OSError as error:
        raise _failure(place, error) from error


def _keep(place: str) -> None:
    try:
        kept = f"{place}.before-thinsync"
        others = itertools.count(2)
        while os.path.lexists(kept):
            kept = f"{place}.before-thinsync-{next(others)}"
        os.rename(place, kept)
        sync_path(os.path.dirname(place))
    except OSError as error:
        raise _failure(place, error) from error


def _write(path: str, data: bytes) -> None:
    """As ``write_durable``, with the owners and modes that the emulator needs, whatever our umask says."""
    owner = _owner()
    temporary = f"{path}.thinsync-new"
    try:
        _make_directories(os.path.dirname(path), owner)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            os.fchown(descriptor, *owner)
            file.write(data)
            file.flush()
            flush(descriptor)
        os.rename(temporary, path)
        sync_path(os.path.dirname(path))
    except OSError as error:
        raise _failure(path, error) from error


def _make_directories(directory: str, owner: tuple[int, int]) -> None:
    """Those that are missing, each durable in its parent; entered by all down to the last, which is the emulator's."""
    if os.path.isdir(directory):
        return
    parent = os.path.dirname(directory)
    _make_directories(parent, owner)
    os.mkdir(directory)
    os.chmod(directory, _ENTERED)
    if parent != tpm.TPM_DIRECTORY and directory != tpm.TPM_DIRECTORY:
        os.chown(directory, *owner)
    sync_path(parent)


def _owner() -> tuple[int, int]:
    """User and group of the emulator: what qemu.conf says, else the user that its package makes, else root."""
    try:
        settings = dict(_SETTING.findall(Path(_QEMU_CONF).read_text(errors="replace")))
    except OSError:
        settings = {}
    for name in (settings.get("swtpm_user", ""), *_USERS):
        try:
            entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    return os.getuid(), os.getgid()


def _failure(path: str, error: OSError) -> ThinsyncError:
    return ThinsyncError(f"cannot write {path}: {error.strerror}", hint="look at: df, mount, ls -ld")

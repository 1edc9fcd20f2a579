"""``qcow2:``: each point is a qcow2 file per disk, an overlay on the point before; any hypervisor opens each of them.

Merging, for R <- X where R is retired and X is kept: what X holds is committed into R, which X goes on covering, so
that X reads the same all the time; then R's file takes X's name as well (a link, renamed over it: one instant), and
the record lets X stand without R. An overlay on X finds its base under the same name as before.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from thinsync_virt.endpoint.target.stores.directory import DomainFolder
from thinsync_virt.endpoint.target.stores.keeper import Chain, Incoming
from thinsync_virt.endpoint.target.stores.plain import cannot_go_on, failing, require_left, seal_file
from thinsync_virt.endpoint.target.stores.records import DiskRecord, PointRecord
from thinsync_virt.errors import BusyError, Code, CommandError, PoolError
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.targets import TargetKind
from thinsync_virt.system import steps
from thinsync_virt.system.files import sync_directory
from thinsync_virt.system.images import can_link
from thinsync_virt.system.process import package_of
from thinsync_virt.system.qcow2 import (
    ImageFacts,
    ServedImage,
    commit_image,
    create_image,
    image_facts,
    missing_tools,
    shrink_image,
)


class Qcow2Keeper:
    """Overlays."""

    kind = TargetKind.QCOW2
    chained = True
    longest = 200
    slack = 0

    def __init__(self, links: Callable[[Path], bool] = can_link) -> None:
        """``links`` says whether files in a directory can have two names."""
        self._links = links

    def findings(self, directory: Path, where: str) -> tuple[Finding, ...]:
        """Whether QEMU's tools are here."""
        missing = missing_tools()
        if not missing and not self._links(directory):
            text = "its file system knows no hard links, without which old points cannot be merged"
            hint = "choose a directory on ext4, XFS or btrfs; or archive:, which needs none"
            return (Finding(Severity.REFUSAL, where, text, hint, Code.NOT_REPLICABLE),)
        if not missing:
            return (Finding(Severity.OK, where, "qemu-img and qemu-nbd are here"),)
        packages = " ".join(sorted({package_of(tool) for tool in missing}))
        text = f"there is no {', '.join(missing)} on this host, by which images are written"
        return (Finding(Severity.REFUSAL, where, text, f"there: apt install {packages}"),)

    def write(self, incoming: Incoming) -> Qcow2Writer:
        """Overlays on the bases, or images that stand alone."""
        return Qcow2Writer(incoming)

    def read(self, folder: DomainFolder, chain: Chain) -> ServedImage:
        """The image; QEMU follows it to those that it stands on. Raises PoolError when they are not the record's."""
        point, disk = chain[0]
        for upper, lower in zip(chain, [*chain[1:], None], strict=True):
            _check_image(folder.file(*upper), folder.file(*lower) if lower is not None else None)
        return ServedImage(folder.file(point, disk))

    def merge(self, folder: DomainFolder, retired: Sequence[PointRecord], child: PointRecord) -> None:
        """One pair after the other, from the oldest."""
        kept = [point.id for point in (*retired[1:], child)]
        for base, upper in zip((point.id for point in retired), kept, strict=True):
            below, above = folder.record.point(base), folder.record.point(upper)
            assert below is not None and above is not None
            self._merge_pair(folder, below, above)

    def _merge_pair(self, folder: DomainFolder, below: PointRecord, above: PointRecord) -> None:
        disks: list[DiskRecord] = []
        for disk in above.disks:
            held = below.disk(disk.target)
            if disk.base != below.id or held is None:
                disks.append(disk)
                continue
            lower = folder.chain(below, disk.target)[1:2]
            _check_image(folder.file(above, disk), folder.file(below, held))
            _check_image(folder.file(below, held), folder.file(*lower[0]) if lower else None)
            _commit(folder.file(below, held), folder.file(above, disk), disk.size)
            status = seal_file(folder.file(above, disk))
            disks.append(
                replace(disk, base=held.base, file_size=status.st_size, file_time=status.st_mtime_ns)
            )
        merged = replace(above, disks=tuple(disks))
        folder.commit(folder.record.with_point(merged).without(frozenset({below.id})))
        steps.reached("merge committed")

    def start(self, folder: DomainFolder, point: PointRecord) -> str:
        """From a copy: QEMU under libvirt may not look into the store, and the bases of an overlay go one day."""
        path = shlex.quote(str(folder.file(point, point.disks[0])))
        return (
            f"start it from a copy, never in place: qemu-img convert -f qcow2 -O qcow2 {path} NEW;"
            " its domain.xml is beside it, in definition"
        )


class Qcow2Writer:
    """One image for each disk of a stream, each in the hands of a qemu-nbd."""

    def __init__(self, incoming: Incoming) -> None:
        going_on = incoming.resumed is not None
        self._fresh = [disk.mode is Mode.FULL and not going_on for disk in incoming.header.disks]
        self._targets = [disk.target for disk in incoming.header.disks]
        self._images: list[ServedImage] = []
        try:
            for disk in incoming.header.disks:
                path = incoming.directory / f"{disk.target}.qcow2"
                base = incoming.bases.get(disk.target)
                if going_on:
                    _check_left(path, base)
                else:
                    # As it is seen from the point's directory, beside the other's: a store may be moved as a whole.
                    create_image(path, disk.size, _backing(base))
                self._images.append(ServedImage(path, write=True))
        except BaseException:
            self.close()
            raise

    def data(self, disk: int, offset: int, data: memoryview) -> None:
        """Written where it belongs."""
        self._images[disk].write(offset, data)

    def zero(self, disk: int, offset: int, length: int) -> None:
        """What a new image does not hold is zeroes already."""
        if not self._fresh[disk]:
            self._images[disk].clear(offset, length)

    def unmap(self, disk: int, offset: int, length: int) -> None:
        """Zeroes that hide what lies beneath."""
        self._images[disk].clear(offset, length)

    def checkpoint(self) -> int:
        """All on stable storage."""
        for image in self._images:
            image.sync()
        return 0

    def finish(self) -> dict[str, str]:
        """All on stable storage, and no server any more."""
        self.checkpoint()
        self.close()
        return {target: f"{target}.qcow2" for target in self._targets}

    def close(self) -> None:
        """End the servers."""
        for image in self._images:
            image.close()


def _backing(base: Path | None) -> str:
    """How an image names the one of another point on which it stands."""
    return f"../{base.parent.name}/{base.name}" if base is not None else ""


def _check_image(path: Path, base: Path | None) -> None:
    """What QEMU would read beneath an image, or write it to, is what the record says. Raises PoolError."""
    if base is not None and path.samefile(base):
        return  # a merge was cut short after it had renamed
    reason = _strange(image_facts(path), base)
    if reason:
        raise PoolError(
            f"{path} {reason}",
            hint="somebody rebased it: choose another point, see: thinsync-vm points DOMAIN; or remove that file, and"
            " the next run goes on without it",
        )


def _strange(facts: ImageFacts, base: Path | None) -> str:
    """What of an image that stands on ``base`` leads to other files than the record; "" where nothing does."""
    if facts.data_file:
        return f"keeps its data in {facts.data_file[:200]!r}, and by the record in itself"
    if facts.backing != _backing(base):
        return f"stands on {facts.backing[:200]!r}, and by the record on {_backing(base)!r}"
    return ""


def _check_left(path: Path, base: Path | None) -> None:
    """An image in which a transfer goes on is still one, and leads nowhere else. Raises StreamError."""
    require_left(path)
    try:
        reason = _strange(image_facts(path), base)
    except CommandError as error:
        raise cannot_go_on(path, error.message) from error
    if reason:
        raise cannot_go_on(path, f"it {reason}")


def _commit(below: Path, above: Path, size: int) -> None:
    """Let ``below`` hold what ``above`` shows, ``size`` bytes, and bear both names. May be repeated at any point."""
    if not above.samefile(below):
        with failing("change", below):
            os.chmod(below, 0o600)
        try:
            commit_image(above)
        except CommandError as error:
            if "lock" in error.stderr:
                raise BusyError(
                    f"{below} is in use, and cannot be merged", hint=f"see who has it: lsof {below}"
                ) from error
            raise
        if image_facts(below).size > size:
            shrink_image(below, size)
        seal_file(below)
        steps.reached("merged")
        temporary = above.with_name(f"merged-{above.name}")
        with failing("rename", above):
            temporary.unlink(missing_ok=True)
            os.link(below, temporary)
            temporary.rename(above)
            sync_directory(above.parent)
        steps.reached("merge renamed")

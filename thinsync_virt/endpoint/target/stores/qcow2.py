"""``qcow2:``: each point is a qcow2 file per disk, an overlay on the point before; any hypervisor opens each."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from thinsync_virt.endpoint.target.stores.directory import DomainFolder
from thinsync_virt.endpoint.target.stores.keeper import Chain, Incoming, Sower
from thinsync_virt.endpoint.target.stores.plain import cannot_go_on
from thinsync_virt.endpoint.target.stores.qcow2_images import backing_of, check_chain, check_left
from thinsync_virt.endpoint.target.stores.qcow2_merging import merge_images
from thinsync_virt.endpoint.target.stores.records import PointRecord
from thinsync_virt.errors import Code, CommandError, PoolError, StreamError, ThinsyncError
from thinsync_virt.model.extents import Extent
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.targets import TargetKind
from thinsync_virt.system.images import can_link
from thinsync_virt.system.process import package_of
from thinsync_virt.system.qcow2 import (
    ServedImage,
    create_image,
    image_extents,
    image_facts,
    image_is_sound,
    missing_tools,
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
        self.sower: Sower | None = Qcow2Sower()

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
        check_chain(folder, chain)
        return ServedImage(folder.file(*chain[0]))

    def merge(self, folder: DomainFolder, retired: Sequence[PointRecord], child: PointRecord) -> None:
        """By QEMU's own commit, one after the other; or by a new file, where those beneath may not be written to."""
        merge_images(folder, retired, child)

    def start(self, folder: DomainFolder, point: PointRecord) -> str:
        """From a copy: QEMU under libvirt may not look into the store, and the bases of an overlay go one day."""
        path = shlex.quote(str(folder.file(point, point.disks[0])))
        return (
            f"start it from a copy, never in place: qemu-img convert -f qcow2 -O qcow2 {path} NEW;"
            " its domain.xml is beside it, in definition"
        )


class Qcow2Sower:
    """Overlays on the damaged images: what is equal there is read there, and what differs is written to the overlay."""

    def path(self, directory: Path, target: str) -> Path:
        """As :class:`Qcow2Writer` calls it."""
        return directory / f"{target}.qcow2"

    def check(self, folder: DomainFolder, chain: Chain) -> None:
        """QEMU can open it, and what it stands on, and that is what the record says."""
        try:
            check_chain(folder, chain)
            ServedImage(folder.file(*chain[0])).close()
        except ThinsyncError as error:
            if error.code is not Code.TOOL:
                raise
            raise PoolError(
                f"{folder.file(*chain[0])} cannot be opened: {error.message}", hint=error.hint
            ) from error

    def sow(self, path: Path, size: int, seed: Path) -> None:
        """An overlay with nothing in it."""
        create_image(path, size, backing_of(seed))

    def is_sown(self, path: Path, size: int, seed: Path) -> bool:
        """It is an overlay on ``seed``, and nothing is wrong with its tables."""
        try:
            check_left(path, seed)
            return image_facts(path).size == size and image_is_sound(path)
        except (CommandError, StreamError):
            return False

    def open(self, path: Path) -> Qcow2Sown:
        """The overlay."""
        return Qcow2Sown(path)


class Qcow2Sown:
    """An overlay on a damaged image."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = image_facts(path).size
        self._served: ServedImage | None = None

    def extents(self) -> Iterator[Extent]:
        """What may hold data, in it or beneath."""
        # Who writes to an image has it locked.
        self.close()
        return image_extents(self._path)

    def read(self, start: int, length: int) -> bytes:
        """What it shows."""
        return self._image().read(start, length)

    def blank(self, start: int, length: int) -> None:
        """A cluster of zeroes, for which nothing is read beneath."""
        self._image().clear(start, length)

    def close(self) -> None:
        """End the server."""
        if self._served is not None:
            self._served.close()
            self._served = None

    def _image(self) -> ServedImage:
        if self._served is None:
            self._served = ServedImage(self._path, write=True)
        return self._served


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
                base = incoming.below(disk.target)
                there = incoming.is_there(disk.target)
                if there:
                    check_left(path, base)
                else:
                    create_image(path, disk.size, backing_of(base))
                self._images.append(ServedImage(path, write=True))
                if there and (size := self._images[-1].size) != disk.size:
                    raise cannot_go_on(path, f"it shows {size} bytes, and should {disk.size}")
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

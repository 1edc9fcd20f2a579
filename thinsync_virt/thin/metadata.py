"""A pool's metadata as ``Mappings``: extents in bytes."""

from __future__ import annotations

from thinsync_virt.errors import PoolError
from thinsync_virt.lean import TYPE_CHECKING
from thinsync_virt.thin.blocks import BlockReader, CheckedReader
from thinsync_virt.thin.delta import Part, device_parts, device_runs, equal, part_runs
from thinsync_virt.thin.runs import Runs
from thinsync_virt.thin.superblock import Trees, read_trees
from thinsync_virt.thin.tree import look_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinsync_virt.model.extents import Extent

_DETAILS = 24


class ThinMetadata:
    """One state of a pool: the live one of a pool that stands still, or that of its metadata snapshot.

    Extents are ascending, joined, whole chunks, in bytes, and not clipped to a volume's size.
    """

    def __init__(self, reader: BlockReader, *, metadata_snapshot: bool) -> None:
        self._reader = CheckedReader(reader)
        self._snapshot = metadata_snapshot
        self._trees: Trees | None = None

    @property
    def trees(self) -> Trees:
        """Where the trees are. Raises PoolError."""
        if self._trees is None:
            self._trees = read_trees(self._reader, metadata_snapshot=self._snapshot)
        return self._trees

    @property
    def blocks_read(self) -> int:
        """How many blocks of 4 KiB have been read."""
        return self._reader.read_blocks

    def runs(self, base: int | None, head: int) -> Iterator[Runs]:
        """What makes head of base (all of head without one), in chunks and batches. Raises NotFoundError, PoolError."""
        return device_runs(self._reader, self.trees, base, head)

    def parts(self, base: int | None, head: int) -> list[Part]:
        """The same work in parts, in the order of their keys, for forked processes; one when there is little to do.

        Raises NotFoundError, PoolError.
        """
        return device_parts(self._reader, self.trees, base, head)

    def part_runs(self, part: Part) -> Iterator[Runs]:
        """As :meth:`runs`, of one part. Runs that go on in the next part: ``thin.runs.joined``. Raises PoolError."""
        return part_runs(self._reader, self.trees, part)

    def mappings(self, thin_id: int) -> Iterator[Extent]:
        """All mapped ranges of a device, as data. Raises NotFoundError, PoolError."""
        # Runs are got at without this import, which is a good part of a small delta's time.
        from thinsync_virt.model.extents import Extent, ExtentKind

        mapped = 0
        chunk = self.trees.chunk_size
        for batch in self.runs(None, thin_id):
            for start, length, _ in batch.rows():
                mapped += length
                yield Extent(start * chunk, length * chunk, ExtentKind.DATA)
        self._check_mapped(thin_id, mapped)

    def difference(self, base_id: int, head_id: int) -> Iterator[Extent]:
        """What makes head of base: data, and what only base has, as unmapped. Raises NotFoundError, PoolError."""
        from thinsync_virt.model.extents import Extent, ExtentKind

        kinds = (ExtentKind.DATA, ExtentKind.UNMAPPED)
        chunk = self.trees.chunk_size
        for batch in self.runs(base_id, head_id):
            for start, length, kind in batch.rows():
                yield Extent(start * chunk, length * chunk, kinds[kind])

    def unchanged(self, base_id: int, head_id: int) -> bool:
        """Whether no mapping differs. Raises as :meth:`difference`."""
        return equal(self._reader, self.trees, base_id, head_id)

    def _check_mapped(self, thin_id: int, mapped: int) -> None:
        details = look_up(self._reader, self.trees.details_root, thin_id, _DETAILS)
        expected = int.from_bytes(details[:8], "little") if details is not None else None
        if expected != mapped:
            raise PoolError(
                f"{self._reader.name}: device {thin_id} has {mapped} chunks where its details tell {expected}",
                hint="deactivate the pool and run thin_check on its metadata",
            )

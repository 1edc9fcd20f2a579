"""Metadata blocks of 4 KiB: where they come from, and what each must be before anything in it is believed.

Every block begins with a checksum and, but for the superblock's flags, tells its own number::

    node        0 u32 csum | 4 u32 flags (1 internal, 2 leaf) | 8 u64 block | 16 u32 entries | 20 u32 most entries
                24 u32 value size | 28 padding | 32 u64 keys[most entries] | values[most entries]

(kernel: persistent-data/dm-btree-internal.h). The checksum is crc32c of all behind it, xor a number for the kind.
"""

from __future__ import annotations

from thinsync_virt.errors import PoolError
from thinsync_virt.lean import TYPE_CHECKING, Protocol
from thinsync_virt.thin.checksum import Checksums

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = 4096
SUPERBLOCK_SALT = 160774
NODE_SALT = 121107
INTERNAL, LEAF = 1, 2
HEADER = 32
VALUE = 8
MOST_ENTRIES = (BLOCK - HEADER) // (8 + VALUE) // 3 * 3
"""Of a node with 8-byte values."""

_CHECK = "deactivate the pool and run thin_check on its metadata"
_IS_IT = (
    "is that a pool's metadata, and no dump of it in XML? if so, deactivate the pool and run thin_check on it"
)
_IS_IT_WHOLE = "is it a whole copy of the metadata? if so, deactivate the pool and run thin_check on it"


class BlockReader(Protocol):
    """A pool's metadata."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def blocks(self) -> int:
        """How many blocks of 4 KiB there are."""

    def read(self, numbers: Sequence[int]) -> memoryview:
        """These blocks, one behind the other, in writable memory; good until the next call. Numbers are within bounds.

        Raises PoolError, ThinsyncError.
        """


class CheckedReader:
    """Reads blocks whose number is possible and whose checksum is right. Counts them: ``read_blocks``."""

    def __init__(self, reader: BlockReader) -> None:
        self._reader = reader
        self._checksums = Checksums()
        self.name = reader.name
        self.blocks = reader.blocks
        self.read_blocks = 0

    def read(self, numbers: Sequence[int], salt: int = NODE_SALT) -> memoryview:
        """These blocks, one behind the other; good until the next call. Raises PoolError naming the block."""
        if not len(numbers):
            return memoryview(b"")
        if max(numbers) >= self.blocks:
            worst = next(number for number in numbers if number >= self.blocks)
            what = f"lies beyond the end of the metadata ({self.blocks} blocks)"
            raise self.damaged(worst, what, hint=_IS_IT_WHOLE)
        content = self._reader.read(numbers)
        self.read_blocks += len(numbers)
        found = self._checksums.of(content, salt)
        stored = content.cast("I")[:: BLOCK // 4].tolist()
        if found != stored:
            wrong = next(index for index, value in enumerate(found) if value != stored[index])
            raise self.damaged(
                numbers[wrong], "has a wrong checksum, or is of another kind than its place asks for"
            )
        return content

    def expect(self, blocks: int) -> None:
        """So many blocks will be read, perhaps by forked processes: get ready for that once."""
        self._checksums.expect(blocks)

    def damaged(self, number: int, what: str, *, hint: str = "") -> PoolError:
        """The error for a block that is not what it must be."""
        if not hint:
            # What is no metadata at all shows at its first block.
            hint = _CHECK if number else _IS_IT
        return PoolError(f"{self.name}: metadata block {number} {what}", hint=hint)

"""The stream of LINBIT's thin-send-recv: written as its version 1.1, read as 1.1 and 1.0. All numbers are big-endian.

::

    1.1 = BEGIN (DATA | UNMAP | optional)* END          1.0 = (DATA | UNMAP)*, up to the end of file

    header, 28 bytes
    0       8        16       24        28
    +-------+--------+--------+---------+----------
    | magic | offset | length | command | payload
    | u64   | u64    | u64    | u32     | ...
    +-------+--------+--------+---------+----------

    command            offset        length    payload
    0 DATA             of the data   of it     ``length`` bytes
    1 UNMAP            of the range  of it     none
    2 BEGIN (1.1)      0             0         none; first, and once
    3 END (1.1)        0             24        u64 headers in all, u64 of DATA, u64 of UNMAP; then the end of file
    2**31 and above    any           any       ``length`` bytes, skipped when unknown (1.1)

It has no size, no identity and no checksum, and 1.0 has no end either: cut between two headers, it looks whole. What
is drawn here is what their program writes and takes (thin_send_recv.c of thin-send-recv 1.1.3).

Both halves have the methods of :class:`~thinsync_virt.stream.writer.StreamWriter` and
:class:`~thinsync_virt.stream.reader.StreamReader`, as far as there is something for them to do.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple, NoReturn

from thinsync_virt.errors import StreamError, ThinsyncError, UsageError
from thinsync_virt.stream.events import Data, End, Event, Unmap
from thinsync_virt.stream.frames import FrameType, Piece, Totals
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.stream.reader import Allocate
from thinsync_virt.stream.rules import Rules
from thinsync_virt.units import MIB, SECTOR, align_down

MAGIC_1_1 = (0x24C4F02AAE2E4FA9).to_bytes(8, "big")
MAGIC_1_0 = (0xCA7F00D5DE7EC7ED).to_bytes(8, "big")
VERSIONS = {MAGIC_1_1: "1.1", MAGIC_1_0: "1.0"}

_HEADER = struct.Struct(">8sQQI")
_STATISTICS = struct.Struct(">QQQ")
_OPTIONAL = 1 << 31
_END = (1 << 63) - 1
_PIECE = MIB
_ZEROES = memoryview(bytes(_PIECE))


class Command(enum.IntEnum):
    """What a header is of."""

    DATA = 0
    UNMAP = 1
    BEGIN = 2
    END = 3


class Header(NamedTuple):
    """A header as it stands in the stream; nothing in it has been checked."""

    magic: bytes
    offset: int
    length: int
    command: int


class ThinSendWriter:
    """Writes version 1.1: one volume, no definition. A call that breaks the rules raises RuleError."""

    def __init__(self) -> None:
        self._rules = Rules()
        self._bytes = 0
        self._headers = 0
        self._data = 0
        self._unmaps = 0
        self._chunk = SECTOR

    @property
    def totals(self) -> Totals:
        """Frames and bytes of the volume so far. What is zero travels as data."""
        return self._rules.totals

    @property
    def bytes_sent(self) -> int:
        """Bytes of the stream so far."""
        return self._bytes

    @property
    def checkpoints(self) -> int:
        """There are none in this format."""
        return 0

    @property
    def fresh_extents(self) -> bool:
        """Whether a checkpoint is worth its while: never."""
        return False

    def begin(self, header: StreamHeader) -> list[Piece]:
        """The BEGIN header, which says nothing. Raises UsageError for what this format cannot carry."""
        if len(header.disks) != 1 or header.definition_size:
            raise UsageError(
                "the format of thin-send-recv carries one volume, and nothing else",
                hint="send VG/LV of each disk, or all of them in the native format",
            )
        self._rules.begin(header)
        self._chunk = header.disks[0].chunk_size
        return self._header(Command.BEGIN)

    def definition(self, part: Piece) -> list[Piece]:
        """There is none."""
        return []

    def data(self, disk: int, offset: int, payload: Piece, packed: Piece | None = None) -> list[Piece]:
        """``payload`` at byte ``offset``, as it is: this format knows no compression."""
        self._rules.extent(FrameType.DATA, disk, offset, len(payload))
        self._data += 1
        self._bytes += len(payload)
        return [*self._header(Command.DATA, offset, len(payload)), payload]

    def zero(self, disk: int, offset: int, length: int) -> list[Piece]:
        """``length`` bytes of zeroes, as data: what their receiver unmaps in part of a chunk stays as it was."""
        self._rules.extent(FrameType.ZERO, disk, offset, length)
        self._data += 1
        self._bytes += length
        whole, rest = divmod(length, _PIECE)
        return [
            *self._header(Command.DATA, offset, length),
            *[_ZEROES] * whole,
            *([_ZEROES[:rest]] if rest else []),
        ]

    def unmap(self, disk: int, offset: int, length: int) -> list[Piece]:
        """``length`` bytes are not mapped any more, and read as zeroes.

        Their receiver discards them, and no discard unmaps a chunk in part: where the volume's end cuts the last one,
        that travels as zeroes.
        """
        end = offset + length
        whole = max(align_down(end, self._chunk), offset)
        pieces: list[Piece] = []
        if whole > offset:
            self._rules.extent(FrameType.UNMAP, disk, offset, whole - offset)
            self._unmaps += 1
            pieces += self._header(Command.UNMAP, offset, whole - offset)
        if end > whole or not length:
            pieces += self.zero(disk, whole, end - whole)
        return pieces

    def checkpoint(self) -> list[Piece]:
        """There is none."""
        return []

    def end(self) -> list[Piece]:
        """END with its counts. Nothing may follow."""
        self._rules.end()
        header = self._header(Command.END, 0, _STATISTICS.size)
        self._bytes += _STATISTICS.size
        return [*header, _STATISTICS.pack(self._headers, self._data, self._unmaps)]

    def error(self, error: BaseException) -> list[Piece]:
        """Nothing: a stream without its END was cut off, which is all that this format can say."""
        return []

    def _header(self, command: Command, offset: int = 0, length: int = 0) -> list[Piece]:
        self._headers += 1
        self._bytes += _HEADER.size
        return [_HEADER.pack(MAGIC_1_1, offset, length, command)]


class _Phase(enum.Enum):
    HEADER = enum.auto()
    PAYLOAD = enum.auto()
    OPTIONAL = enum.auto()
    STATISTICS = enum.auto()
    ENDED = enum.auto()


class ThinSendReader:
    """Reads one stream. Events are Data, of at most 1 MiB each, Unmap and, of 1.1, End, all of disk 0.

    Ranges must ascend and be whole sectors, as those of every sender do. After an error every further call raises the
    same error again.
    """

    def __init__(self, allocate: Allocate = bytearray) -> None:
        self._allocate = allocate
        self._failure: ThinsyncError | None = None
        self._phase = _Phase.HEADER
        self._piece = memoryview(bytearray(_HEADER.size))
        self._filled = 0
        self._left = 0
        self._offset = 0
        self._position = 0
        self._magic = b""
        self._bytes = 0
        self._headers = 0
        self._data_headers = 0
        self._unmap_headers = 0
        self._data = 0
        self._unmapped = 0

    @property
    def version(self) -> str:
        """``1.1``, ``1.0``, or "" before the first header."""
        return VERSIONS.get(self._magic, "")

    @property
    def totals(self) -> Totals:
        """Headers, and bytes of the volume, so far."""
        return Totals(self._headers, self._data, 0, self._unmapped)

    def buffer(self) -> memoryview:
        """Where the next bytes of the stream go (never empty); then call :meth:`received`."""
        return self._piece[self._filled :]

    def received(self, count: int) -> list[Event]:
        """The events that ``count`` bytes in :meth:`buffer` complete; 0 is the end of file. Raises StreamError."""
        if self._failure is not None:
            raise self._failure
        try:
            if count == 0:
                self._finish()
                return []
            self._bytes += count
            self._filled += count
            return self._complete() if self._filled == len(self._piece) else []
        except ThinsyncError as error:
            self._failure = error
            raise

    def _complete(self) -> list[Event]:
        """What is due now that the piece is full."""
        piece = self._piece
        if self._phase is _Phase.ENDED:
            self._fail("bytes after the end of the stream")
        if self._phase is _Phase.HEADER:
            return self._take_header(Header._make(_HEADER.unpack(piece)))
        if self._phase is _Phase.STATISTICS:
            return [self._take_statistics(*_STATISTICS.unpack(piece))]
        events: list[Event] = []
        if self._phase is _Phase.PAYLOAD:
            events.append(Data(0, self._offset, piece, len(piece)))
            self._offset += len(piece)
            self._data += len(piece)
        self._take_more()
        return events

    def _take_header(self, header: Header) -> list[Event]:
        self._check_magic(header.magic)
        if self._headers == 0 and self._magic == MAGIC_1_1 and header.command != Command.BEGIN:
            self._fail("the stream does not start with BEGIN")
        if self._magic == MAGIC_1_0 and header.command not in (Command.DATA, Command.UNMAP):
            self._fail(f"command {header.command} in a stream of version 1.0")
        self._headers += 1
        self._expect(_Phase.HEADER, _HEADER.size)
        match header.command:
            case Command.BEGIN:
                if self._headers > 1:
                    self._fail("the stream begins twice")
                self._check(header, 0)
            case Command.END:
                self._check(header, _STATISTICS.size)
                self._expect(_Phase.STATISTICS, _STATISTICS.size)
            case Command.DATA:
                self._check_range(header)
                self._data_headers += 1
                self._offset, self._left = header.offset, header.length
                self._phase = _Phase.PAYLOAD
                self._take_more()
            case Command.UNMAP:
                self._check_range(header)
                self._unmap_headers += 1
                self._unmapped += header.length
                return [Unmap(0, header.offset, header.length)] if header.length else []
            case optional if optional & _OPTIONAL:
                self._left = header.length
                self._phase = _Phase.OPTIONAL
                self._take_more()
            case unknown:
                self._fail(f"unknown command {unknown}")
        return []

    def _check_magic(self, magic: bytes) -> None:
        if not self._headers and magic in VERSIONS:
            self._magic = magic
        if magic != self._magic:
            self._fail("a header of thin-send-recv does not begin with the stream's magic")

    def _check(self, header: Header, length: int) -> None:
        if header.offset or header.length != length:
            self._fail(f"command {header.command} with offset {header.offset} and length {header.length}")

    def _check_range(self, header: Header) -> None:
        offset, length = header.offset, header.length
        if (offset | length) % SECTOR or offset + length > _END:
            self._fail(f"{length} bytes at byte {offset}: not whole sectors, or beyond any volume")
        if offset < self._position:
            self._fail(f"a range at byte {offset}, where the stream is at {self._position} already")
        self._position = offset + length

    def _take_statistics(self, headers: int, data: int, unmaps: int) -> End:
        said, here = (headers, data, unmaps), (self._headers, self._data_headers, self._unmap_headers)
        if said != here:
            self._fail(f"the sender counted {said} headers (in all, of data, of unmap), here came {here}")
        self._expect(_Phase.ENDED, 1)
        return End(self.totals, "")

    def _take_more(self) -> None:
        """The next piece of a payload, or the next header where it is whole."""
        if not self._left:
            self._expect(_Phase.HEADER, _HEADER.size)
            return
        length = min(self._left, _PIECE)
        self._left -= length
        allocate = self._allocate if self._phase is _Phase.PAYLOAD else bytearray
        self._piece = memoryview(allocate(length)).cast("B")[:length]
        self._filled = 0

    def _expect(self, phase: _Phase, length: int) -> None:
        self._phase = phase
        self._piece = memoryview(bytearray(length))
        self._filled = 0

    def _finish(self) -> None:
        if self._phase is _Phase.ENDED:
            return
        if self._magic == MAGIC_1_0 and self._phase is _Phase.HEADER and not self._filled:
            return
        self._fail("the stream is cut off: the end of file came before its end", retry=True)

    def _fail(self, message: str, *, retry: bool = False) -> NoReturn:
        raise StreamError(f"{message} (byte {self._bytes} of the stream)", retry=retry)

"""Stream files: written, gone on with, and read at any place; a disk through the files that it stands on."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from thinsync_virt.endpoint.target.stores.plain import cannot_go_on, failing, require_left
from thinsync_virt.errors import PoolError, StreamError
from thinsync_virt.flushes import flush
from thinsync_virt.model.extents import Extent, ExtentKind, coalesce
from thinsync_virt.stream.compression import pack
from thinsync_virt.stream.frames import FrameType, Piece
from thinsync_virt.stream.header import StreamHeader
from thinsync_virt.stream.index import Frame, FrameIndex, continue_stream
from thinsync_virt.stream.overlay import Layer, Segment, segments
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.system.files import allow_many_files
from thinsync_virt.system.page_cache import ReadBehind
from thinsync_virt.units import KIB, MIB

LEVEL = 3
"""Of Zstandard: faster than disks, and nearly as small as it gets."""
_PACK_FROM = 4 * KIB
_KEPT_FRAMES = 4
_HELD_SEGMENTS = 512
_SYNC_EVERY = 64 * MIB


class StreamFileWriter:
    """One stream file."""

    def __init__(
        self, path: Path, header: StreamHeader, definition: bytes, *, written: StreamWriter | None = None
    ) -> None:
        """A new file; with ``written`` one that is there, as far as that has written."""
        self._path = path
        self._header = header
        self._writer = written or StreamWriter()
        self._unsynced = 0
        self._torn = False
        with failing("make", path):
            self._file = path.open("ab" if written else "xb", buffering=0)
        if written is not None:
            return
        try:
            self._put(self._writer.begin(header))
            self._put(self._writer.definition(definition))
        except BaseException:
            self.close()
            raise

    @classmethod
    def going_on(cls, path: Path, header: StreamHeader, length: int) -> StreamFileWriter:
        """The file that an interrupted transfer left, cut where its last report was. Raises StreamError."""
        require_left(path)
        with failing("open", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            with failing("cut", path):
                found = os.fstat(descriptor).st_size
                if found < length:
                    raise cannot_go_on(path, f"it has {found} bytes, and {length} were reported")
                os.ftruncate(descriptor, length)
            written = continue_stream(lambda position, count: os.pread(descriptor, count, position), length)
        finally:
            os.close(descriptor)
        return cls(path, header, b"", written=written)

    def data(self, disk: int, offset: int, data: memoryview) -> None:
        """A piece, packed if that makes it smaller."""
        packed = pack(data, LEVEL) if len(data) >= _PACK_FROM else None
        self._put(self._writer.data(disk, offset, data, packed))

    def zero(self, disk: int, offset: int, length: int) -> None:
        """Zeroes that are mapped."""
        self._put(self._writer.zero(disk, offset, length))

    def unmap(self, disk: int, offset: int, length: int) -> None:
        """Nothing mapped any more."""
        self._put(self._writer.unmap(disk, offset, length))

    def checkpoint(self) -> int:
        """All on stable storage. A file needs no checkpoints of its own."""
        if self._torn:
            raise PoolError(
                f"what came last into {self._path} is torn, or may not be on the disk",
                hint="run it again",
                retry=True,
            )
        # What a flush lost is told once: the next one would succeed without it.
        self._torn = True
        with failing("flush", self._path):
            flush(self._file.fileno())
        self._torn = False
        return self._writer.bytes_sent

    def finish(self) -> dict[str, str]:
        """The end of the stream; all of it on stable storage."""
        self._put(self._writer.end())
        self._torn = True
        with failing("flush", self._path):
            flush(self._file.fileno())
        self.close()
        return {disk.target: self._path.name for disk in self._header.disks}

    def close(self) -> None:
        """Nothing is flushed."""
        self._file.close()

    def _put(self, pieces: Sequence[Piece]) -> None:
        torn, self._torn = self._torn, True
        with failing("write", self._path):
            for piece in pieces:
                view = memoryview(piece).cast("B")
                self._unsynced += len(view)
                while view:
                    view = view[self._file.write(view) or 0 :]
            if self._unsynced >= _SYNC_EVERY:
                self._unsynced = 0
                flush(self._file.fileno())
                os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._torn = torn


class ArchivedStream:
    """One stream file, open for reading at any place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with failing("open", path):
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._behind = ReadBehind(self._fd)
        try:
            self.index = FrameIndex.of(self.read_at)
        except StreamError as error:
            self.close()
            raise StreamError(
                f"{path}: {error.message}",
                hint="choose another point, or replicate again to another directory",
                retry=False,
            ) from error

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            self._behind.finish()
            os.close(self._fd)
            self._fd = -1

    def read_at(self, position: int, length: int) -> bytes:
        """Bytes of the file; fewer only at its end."""
        with failing("read", self._path):
            found = os.pread(self._fd, length, position)
            while 0 < len(found) < length and (
                more := os.pread(self._fd, length - len(found), position + len(found))
            ):
                found += more
            self._behind.read(position, len(found))
            return found

    def payload(self, frame: Frame) -> memoryview:
        """The bytes of an extent of data. Raises StreamError when they are damaged."""
        try:
            return self.index.payload(self.read_at, frame)
        except StreamError as error:
            raise self._named(error) from error

    def definition(self) -> bytes:
        """The packed definition."""
        return self.index.definition(self.read_at)

    def layer(self, target: str) -> Layer:
        """The extents of one disk."""
        for number, disk in enumerate(self.index.header.disks):
            if disk.target == target:
                return Layer(partial(self._frames, number), disk.size)
        raise StreamError(f"{self._path} has no disk {target}", retry=False)

    def _frames(self, disk: int, start: int) -> Iterator[Frame]:
        try:
            yield from self.index.frames(self.read_at, disk, start)
        except StreamError as error:
            raise self._named(error) from error

    def _named(self, error: StreamError) -> StreamError:
        return StreamError(
            f"{self._path}: {error.message}",
            hint="choose another point: thinsync-vm points DOMAIN --to TARGET",
            retry=False,
        )


class ArchivedDisk:
    """A disk through the streams that it stands on, oldest first.

    Memory: the marks of each file, one window of a file that is gone through, and a few segments and payloads; none of
    it grows with the disk or its extents.
    """

    def __init__(self, paths: Sequence[Path], target: str) -> None:
        self._streams: list[ArchivedStream] = []
        self._payloads: OrderedDict[tuple[int, int], memoryview] = OrderedDict()
        allow_many_files()
        try:
            for path in paths:
                self._streams.append(ArchivedStream(path))
            self._layers = [stream.layer(target) for stream in self._streams]
        except BaseException:
            self.close()
            raise
        self.size = self._layers[-1].size
        self._ahead: Iterator[Segment] = iter(())
        self._held: list[Segment] = []
        self._known = range(0)

    def close(self) -> None:
        """Idempotent."""
        for stream in self._streams:
            stream.close()

    def spoken(self) -> Iterator[tuple[int, int, FrameType]]:
        """First byte, length and kind of what the streams say of the disk, ascending.

        Where the disk was cut and grew again they say that nothing is left of what was there: in one stream with the
        last size alone the cut would be lost, and what lies beneath these streams would come back.
        """
        reached = min(layer.size for layer in self._layers)
        for segment in segments(self._layers):
            if segment.start > reached:
                yield reached, segment.start - reached, FrameType.UNMAP
            reached = max(reached, segment.end)
            yield segment.start, segment.end - segment.start, segment.frame.kind
        if reached < self.size:
            yield reached, self.size - reached, FrameType.UNMAP

    def extents(self) -> Iterator[Extent]:
        """What is data; zeroes need no reading."""
        return coalesce(
            Extent(start, length, ExtentKind.DATA)
            for start, length, kind in self.spoken()
            if kind is FrameType.DATA
        )

    def read(self, start: int, length: int) -> bytes:
        """Raises StreamError where what is stored is damaged."""
        found = bytearray(length)
        position, end = start, start + length
        while position < min(end, self.size):
            for segment in self._around(position):
                first, last = max(segment.start, start), min(segment.end, end)
                if first < last and segment.frame.kind is FrameType.DATA:
                    begin = segment.frame.start
                    content = self._content(segment.layer, segment.frame)
                    found[first - start : last - start] = content[first - begin : last - begin]
            position = self._known.stop
        return bytes(found)

    def _around(self, position: int) -> Sequence[Segment]:
        """The segments held that end past ``position``; ``_known`` is the range that all of them together tell of.

        Who reads forward goes on where the last one ended, anybody else begins at the marks.
        """
        if position not in self._known:
            if position >= self._known.stop and self._held:
                self._hold(self._known.stop)
            if position not in self._known:
                self._ahead = segments(self._layers, position)
                self._hold(position)
        return self._held[bisect_right(self._held, position, key=lambda segment: segment.end) :]

    def _hold(self, start: int) -> None:
        """The next segments, which tell of the disk from ``start`` on."""
        self._known, self._held = range(0), []
        self._held = list(islice(self._ahead, _HELD_SEGMENTS))
        whole = len(self._held) < _HELD_SEGMENTS
        self._known = range(start, self.size if whole else self._held[-1].end)

    def _content(self, layer: int, frame: Frame) -> memoryview:
        content = self._payloads.pop((layer, frame.position), None)
        if content is None:
            content = self._streams[layer].payload(frame)
        self._payloads[layer, frame.position] = content
        if len(self._payloads) > _KEPT_FRAMES:
            self._payloads.popitem(last=False)
        return content

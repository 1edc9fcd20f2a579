"""Work shared with a forked process, the output of both put together in order.

::

    this process: parts 0, 2, 4 ...        worker: parts 1, 3, 5 ...
      |            <--pipe--   frames: text | note | end of a part | error
      v
    out: text of part 0, of part 1, ...; what a note says is put in its place

A frame is a byte for its kind, its length as u32, and the content. Text goes from pipe to output without passing
through this process's memory where the kernel can do that (splice). While this process does a part, what the worker
sends waits in the pipe: a part is to be small beside a MiB, or the worker waits too.
"""

from __future__ import annotations

import fcntl
import os
import struct

from thinsync_virt.errors import ThinsyncError
from thinsync_virt.lean import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Work = Callable[["Sender"], None]

_FRAME = struct.Struct("<cI")
_TEXT, _NOTE, _END, _ERROR = b"t", b"n", b"e", b"x"
_PIPE_SIZE = 1 << 20
_PIECE = 1 << 18
_MOST_HELD = 256
"""Of pieces, two a frame: fewer than one call takes."""


class Sender(Protocol):
    """Takes what a part of the work yields. It may wait until the parts before have been written."""

    def text(self, content: bytes) -> None:
        """Output, written as it is."""

    def note(self, content: bytes) -> None:
        """Something for the parent (a few bytes): what its ``noted`` makes of it is written in this place."""


def in_order(works: Sequence[Work], out: BinaryIO, noted: Callable[[bytes], bytes] = bytes) -> None:
    """Do every second of the works in a forked process, the others in this one; write what they send, in their order.

    ``noted`` is called in this process with each note, in order, and gives the bytes to write there. One work, or one
    processor: all is done in this process. A ThinsyncError of a work is raised here, as is one when the worker dies;
    what came before it in order may have been written by then. What else a work raises in this process is raised as it
    is. The worker is not left behind, however this ends.
    """
    here = _Here(out, noted)
    if min(len(works), len(os.sched_getaffinity(0))) < 2:
        for work in works:
            work(here)
        return
    out.flush()
    worker = _Worker(works[1::2])
    try:
        output = _Output(out)
        for index, work in enumerate(works):
            if index % 2:
                worker.deliver_part(output, noted)
            else:
                work(here)
        worker.wait()
    finally:
        worker.end()


class _Here:
    """A Sender in this process."""

    def __init__(self, out: BinaryIO, noted: Callable[[bytes], bytes]) -> None:
        self._out = out
        self._noted = noted

    def text(self, content: bytes) -> None:
        self._out.write(content)

    def note(self, content: bytes) -> None:
        self._out.write(self._noted(content))


class _ToParent:
    """A Sender in the worker. What is small waits for more: fewer calls, and fewer times that a parent wakes up."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._held: list[bytes] = []
        self._size = 0

    def text(self, content: bytes) -> None:
        self._add(_TEXT, content)

    def note(self, content: bytes) -> None:
        self._add(_NOTE, content)

    def end(self, kind: bytes, content: bytes = b"") -> None:
        """The last of a part."""
        self._add(kind, content)
        self._flush()

    def _add(self, kind: bytes, content: bytes) -> None:
        self._held += (_FRAME.pack(kind, len(content)), content)
        self._size += len(content)
        if self._size >= _PIECE or len(self._held) >= _MOST_HELD:
            self._flush()

    def _flush(self) -> None:
        pieces = [memoryview(piece) for piece in self._held if piece]
        self._held, self._size = [], 0
        done = 0
        while True:
            while pieces and done >= len(pieces[0]):
                done -= len(pieces.pop(0))
            if not pieces:
                return
            pieces[0] = pieces[0][done:]
            done = os.writev(self._pipe, pieces)


class _Output:
    """Where the parent writes: from pipe to output in the kernel, or else through memory."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        try:
            self._fd = out.fileno()
        except OSError:
            self._fd = -1

    def write(self, content: bytes) -> None:
        self._out.write(content)

    def copy(self, pipe: int, length: int) -> None:
        self._out.flush()
        while length and self._fd >= 0:
            try:
                done = os.splice(pipe, self._fd, length)
            except BrokenPipeError:
                raise
            except OSError:
                # Not every output can (a terminal, a file opened for appending, one that somebody made non-blocking
                # meanwhile: ``out`` knows how to wait).
                self._fd = -1
                break
            if not done:
                raise _died()
            length -= done
        while length:
            content = os.read(pipe, min(length, _PIECE))
            if not content:
                raise _died()
            self._out.write(content)
            length -= len(content)
        if self._fd < 0:
            self._out.flush()


class _Worker:
    """A forked process that does some of the works, and the pipe from it."""

    def __init__(self, works: Sequence[Work]) -> None:
        self.pipe, end = os.pipe2(os.O_CLOEXEC)
        _enlarge(end)
        try:
            self._pid = os.fork()
        except OSError as error:
            os.close(self.pipe)
            os.close(end)
            raise ThinsyncError(f"cannot start a process: {error.strerror}", hint="see: ulimit -u") from error
        if not self._pid:
            # Whoever holds the reading end does not notice that the parent is gone.
            os.close(self.pipe)
            _run(works, end)
        os.close(end)

    def deliver_part(self, output: _Output, noted: Callable[[bytes], bytes]) -> None:
        """Write all that the next of its works sends. Raises ThinsyncError."""
        while True:
            kind, length = _FRAME.unpack(self._read(_FRAME.size))
            if kind == _TEXT:
                output.copy(self.pipe, length)
            elif kind == _NOTE:
                output.write(noted(self._read(length)))
            elif kind == _END:
                return
            else:
                raise _error_of(self._read(length))

    def wait(self) -> None:
        """Until it has ended."""
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        if status:
            raise _died()

    def end(self) -> None:
        """Whatever it is doing."""
        os.close(self.pipe)
        if self._pid:
            import signal

            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _read(self, length: int) -> bytes:
        content = b""
        while len(content) < length:
            part = os.read(self.pipe, length - len(content))
            if not part:
                raise _died()
            content += part
        return content


def _run(works: Sequence[Work], pipe: int) -> None:
    """The life of a worker; never returns."""
    status = 1
    try:
        sender = _ToParent(pipe)
        try:
            for work in works:
                work(sender)
                sender.end(_END)
            status = 0
        except ThinsyncError as error:
            sender.end(_ERROR, _told(error))
        except Exception as error:  # noqa: BLE001 - the parent is to know of whatever it is
            unexpected = ThinsyncError(
                f"a worker ended with {type(error).__name__}: {error}",
                hint="run it again with THINSYNC_DEBUG=1 in the environment and report what it prints",
            )
            sender.end(_ERROR, _told(unexpected))
    finally:
        # Neither buffers nor exit functions of the parent's are this process's to run.
        os._exit(status)


def _enlarge(pipe: int) -> None:
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    except OSError:
        # A user's pipes have a limit in all; a smaller one is slower, and nothing else.
        return


def _told(error: ThinsyncError) -> bytes:
    import json

    return json.dumps([error.message, error.code, error.hint, error.retry]).encode()


def _error_of(content: bytes) -> ThinsyncError:
    import json

    from thinsync_virt.errors import Code

    message, code, hint, retry = json.loads(content)
    return ThinsyncError(message, code=Code(code), hint=hint, retry=retry)


def _died() -> ThinsyncError:
    return ThinsyncError(
        "a process that compares a part of the metadata has died",
        hint="is memory short? see: dmesg",
        retry=True,
    )

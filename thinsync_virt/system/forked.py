"""Work shared out to forked processes, their output put together in order.

::

    parent            worker 0: parts 0, 2, 4 ...
      |   <--pipe--   frames: text | note | end of a part | error
      |   <--pipe--   worker 1: parts 1, 3, 5 ...
      v
    out: text of part 0, of part 1, ...; what a note says is put in its place

A frame is a byte for its kind, its length as u32, and the content. Text goes from pipe to output without passing
through the parent's memory where the kernel can do that (splice).
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

_WORKERS = 2
_FRAME = struct.Struct("<cI")
_TEXT, _NOTE, _END, _ERROR = b"t", b"n", b"e", b"x"
_PIPE_SIZE = 1 << 20
_PIECE = 1 << 18


class Sender(Protocol):
    """Takes what a part of the work yields. It may wait until the parts before have been written."""

    def text(self, content: bytes) -> None:
        """Output, written as it is."""

    def note(self, content: bytes) -> None:
        """Something for the parent (a few bytes): what its ``noted`` makes of it is written in this place."""


def in_order(works: Sequence[Work], out: BinaryIO, noted: Callable[[bytes], bytes] = bytes) -> None:
    """Do each of the works in one of at most two forked processes; write what they send to ``out``, in their order.

    ``noted`` is called in this process with each note, in order, and gives the bytes to write there. One work, or one
    processor: all is done in this process. A ThinsyncError of a work is raised here, as is one when a worker dies;
    what came before it in order may have been written by then. No worker is left behind, however this ends.
    """
    count = min(_WORKERS, len(works), len(os.sched_getaffinity(0)))
    if count < 2:
        here = _Here(out, noted)
        for work in works:
            work(here)
        return
    out.flush()
    workers: list[_Worker] = []
    try:
        for index in range(count):
            workers.append(_Worker(works[index::count], [worker.pipe for worker in workers]))
        output = _Output(out)
        for index in range(len(works)):
            workers[index % count].deliver_part(output, noted)
        for worker in workers:
            worker.wait()
    finally:
        for worker in workers:
            worker.end()


class _Here:
    """A Sender in the process itself."""

    def __init__(self, out: BinaryIO, noted: Callable[[bytes], bytes]) -> None:
        self._out = out
        self._noted = noted

    def text(self, content: bytes) -> None:
        self._out.write(content)

    def note(self, content: bytes) -> None:
        self._out.write(self._noted(content))


class _ToParent:
    """A Sender in a worker."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def text(self, content: bytes) -> None:
        view = memoryview(content)
        for at in range(0, len(view), _PIECE):
            self.send(_TEXT, view[at : at + _PIECE])

    def note(self, content: bytes) -> None:
        self.send(_NOTE, memoryview(content))

    def send(self, kind: bytes, content: memoryview) -> None:
        head = _FRAME.pack(kind, len(content))
        done = os.writev(self._pipe, [head, content])
        while done < len(head):
            done += os.write(self._pipe, head[done:])
        done -= len(head)
        while done < len(content):
            done += os.write(self._pipe, content[done:])


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
        if self._fd >= 0:
            self._out.flush()

    def copy(self, pipe: int, length: int) -> None:
        while length and self._fd >= 0:
            try:
                done = os.splice(pipe, self._fd, length)
            except (BrokenPipeError, BlockingIOError):
                raise
            except OSError:
                # Not every output can (a terminal, a file opened for appending).
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

    def __init__(self, works: Sequence[Work], others: Sequence[int]) -> None:
        self.pipe, end = os.pipe2(os.O_CLOEXEC)
        _enlarge(end)
        try:
            self._pid = os.fork()
        except OSError as error:
            os.close(self.pipe)
            os.close(end)
            raise ThinsyncError(f"cannot start a process: {error.strerror}", hint="see: ulimit -u") from error
        if not self._pid:
            # Whoever holds a reading end keeps the others from noticing that the parent is gone.
            for pipe in (self.pipe, *others):
                os.close(pipe)
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
                sender.send(_END, memoryview(b""))
            status = 0
        except ThinsyncError as error:
            sender.send(_ERROR, memoryview(_told(error)))
        except Exception as error:  # noqa: BLE001 - the parent is to know of whatever it is
            sender.send(
                _ERROR,
                memoryview(
                    _told(
                        ThinsyncError(
                            f"a worker ended with {type(error).__name__}: {error}",
                            hint="run it again with THINSYNC_DEBUG=1 in the environment and report what it prints",
                        )
                    )
                ),
            )
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

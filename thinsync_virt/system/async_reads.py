"""Many reads in flight at once: the kernel's asynchronous I/O, asked for by its system calls through ctypes.

One call hands in all reads, one waits for all of them. Of a device that is opened past the page cache they really run
side by side, with none of the cost of threads. What struct iocb and struct io_event look like (linux/aio_abi.h)::

    iocb      0 u64 data | 8 u32 key, flags | 16 u16 opcode, s16 priority | 20 u32 file | 24 u64 buffer
              32 u64 bytes | 40 s64 offset | 48 reserved, flags, event file              64 bytes
    io_event  0 u64 data | 8 u64 iocb | 16 s64 result | 24 s64 second result             32 bytes
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from array import array

_DEPTH = 256
"""Reads in flight at most."""

_IOCB = struct.Struct("<QIIHhIQQq16x")
_EVENT_BYTES = 32
_OFFSET_WORD, _OFFSET_STEP = 5, _IOCB.size // 8
_PREAD = 0
_IDLE: list[tuple[int, ctypes.c_ulong]] = []
"""Contexts in the kernel that nobody uses, each with the process that it belongs to: forked ones have none."""
# (io_setup, io_getevents, io_submit)
_NUMBERS = {
    "x86_64": (206, 208, 209),
    "aarch64": (0, 4, 2),
    "riscv64": (0, 4, 2),
}


class AsyncReads:
    """Reads pieces of one size of one file into a buffer. For one thread."""

    def __init__(self, fd: int, size: int) -> None:
        """``size`` of every read, in bytes. Raises OSError where this is not permitted, or not known how."""
        numbers = _NUMBERS.get(os.uname().machine)
        if numbers is None or ctypes.sizeof(ctypes.c_long) != 8:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, self._getevents, self._submit = numbers
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._fd = fd
        self._size = size
        self._pid = os.getpid()
        self._settled = True
        self._context = self._idle_context()
        if self._context is None:
            self._context = ctypes.c_ulong(0)
            self._call(setup, ctypes.c_long(_DEPTH), ctypes.byref(self._context))
        self._blocks = bytearray(_IOCB.size * _DEPTH)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._blocks))
        places = range(first, first + len(self._blocks), _IOCB.size)
        self._pointers = ctypes.create_string_buffer(struct.pack(f"<{_DEPTH}Q", *places))
        events = bytearray(_EVENT_BYTES * _DEPTH)
        self._events = (ctypes.c_char * len(events)).from_buffer(events)
        self._results = memoryview(events).cast("q")
        self._offsets = memoryview(self._blocks).cast("q")[_OFFSET_WORD::_OFFSET_STEP]
        self._buffer = 0

    def _idle_context(self) -> ctypes.c_ulong | None:
        while _IDLE:
            pid, context = _IDLE.pop()
            if pid == self._pid:
                return context
        return None

    def close(self) -> None:
        """Leave the kernel's part to the next that reads: giving it back takes the kernel tens of milliseconds."""
        if self._settled and self._pid == os.getpid() and self._context is not None:
            _IDLE.append((self._pid, self._context))
        self._context = None

    def read(self, offsets: list[int], buffer: memoryview) -> bool:
        """Fill the (writable) buffer with pieces from these offsets; whether all were read, and whole.

        Raises OSError.
        """
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        for first in range(0, len(offsets), _DEPTH):
            part = offsets[first : first + _DEPTH]
            self._prepare(address + first * self._size)
            count = len(part)
            self._offsets[:count] = memoryview(array("q", part))
            if not self._run(count):
                return False
        return True

    def _prepare(self, buffer: int) -> None:
        if buffer == self._buffer:
            return
        for index in range(_DEPTH):
            place = buffer + index * self._size
            _IOCB.pack_into(
                self._blocks, index * _IOCB.size, index, 0, 0, _PREAD, 0, self._fd, place, self._size, 0
            )
        self._buffer = buffer

    def _run(self, count: int) -> bool:
        """Hand in ``count`` reads and wait for all that were taken."""
        handed = good = 0
        self._settled = False
        while handed < count:
            taken = self._call(
                self._submit,
                self._context,
                ctypes.c_long(count - handed),
                ctypes.byref(self._pointers, 8 * handed),
            )
            handed += taken
            good += self._wait(taken)
        self._settled = True
        return good == count

    def _wait(self, count: int) -> int:
        """Until so many reads are done; how many of them were whole."""
        done = whole = 0
        while done < count:
            try:
                found = self._call(
                    self._getevents,
                    self._context,
                    ctypes.c_long(count - done),
                    ctypes.c_long(count - done),
                    self._events,
                    None,
                )
            except InterruptedError:
                # Buffers that the kernel still writes to are not left.
                continue
            whole += self._results[2 : 4 * found : 4].tolist().count(self._size)
            done += found
        return whole

    def _call(self, number: int, *arguments: object) -> int:
        result: int = self._syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

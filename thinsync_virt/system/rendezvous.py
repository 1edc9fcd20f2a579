"""Where processes of this host find the one that expects them, and give it a descriptor of theirs.

A socket under a name that nobody can guess, in a directory that is root's alone. It is gone from there as soon as
nobody is expected any more; what a killed process leaves is removed by the next one.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import struct
import time
from pathlib import Path

from thinsync_virt.errors import ThinsyncError, UnreachableError

PLACE = Path("/run/thinsync/lanes")

HELLO_SECONDS = 5.0
"""For somebody who has connected to say who it is."""
_ACCEPTED = b"\x01"
_LEFT_SECONDS = 60.0
"""So old is a socket that is looked at: a younger one may be about to listen."""
_CREDENTIALS = struct.Struct("3i")
_TOKEN_BYTES = 32
_TOKEN_SIZE = 2 * _TOKEN_BYTES


class Guest:
    """Somebody who came: the descriptor that it brought, and ``link``, which ends when it does."""

    def __init__(self, descriptor: int, link: socket.socket) -> None:
        self.descriptor = descriptor
        self.link = link

    def close(self) -> None:
        """Let it go: its side of the link ends. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        self.link.close()


class Rendezvous:
    """``name`` and ``token`` are for those who are expected, and nobody else."""

    def __init__(self, place: Path = PLACE) -> None:
        """Raises ThinsyncError when the directory is not ours alone."""
        self.name = secrets.token_hex(8)
        self.token = secrets.token_hex(_TOKEN_BYTES)
        _prepare(place)
        self._path = place / self.name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(str(self._path))
            self._socket.listen(16)
        except OSError as error:
            self._socket.close()
            raise _failed(place, error) from error

    def fileno(self) -> int:
        """Readable when somebody is at the door."""
        return self._socket.fileno()

    def admit(self) -> Guest | None:
        """Whoever is at the door; None when it went away, said nothing in time, or does not know the token."""
        try:
            link, _ = self._socket.accept()
        except OSError:
            return None
        descriptors: list[int] = []
        try:
            link.settimeout(HELLO_SECONDS)
            said, descriptors, _, _ = socket.recv_fds(link, _TOKEN_SIZE + 1, 2, socket.MSG_CMSG_CLOEXEC)
            if _is_ours(link) and hmac.compare_digest(said, self.token.encode()) and len(descriptors) == 1:
                link.sendall(_ACCEPTED)
                os.set_blocking(descriptors[0], False)
                return Guest(descriptors.pop(), link)
        except OSError:
            pass
        for descriptor in descriptors:
            os.close(descriptor)
        link.close()
        return None

    def close(self) -> None:
        """Nobody is expected any more. Idempotent."""
        self._path.unlink(missing_ok=True)
        self._socket.close()


def visit(name: str, token: str, descriptor: int, place: Path = PLACE) -> socket.socket:
    """Bring a descriptor to whoever expects it: the link to it, which ends when it has no more use for it.

    Raises UnreachableError when nobody expects us, or not with this token.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.settimeout(2 * HELLO_SECONDS)
        link.connect(str(place / name))
        if _is_ours(link):
            socket.send_fds(link, [token.encode()], [descriptor])
            if link.recv(1) == _ACCEPTED:
                link.settimeout(None)
                return link
    except OSError:
        pass
    link.close()
    raise UnreachableError(
        "nobody here expects this lane", hint="run it again, or with fewer connections: --streams"
    )


def _prepare(place: Path) -> None:
    """The directory, without what killed processes have left in it."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.lstat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ThinsyncError(
                f"{place} is not ours alone", hint=f"look at it, and remove it: ls -ld {place}"
            )
        for path in place.iterdir():
            if path.lstat().st_mtime < time.time() - _LEFT_SECONDS:
                _remove_if_dead(path)
    except FileNotFoundError:
        # Another one has removed it first.
        return
    except OSError as error:
        raise _failed(place, error) from error


def _remove_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            # Alive and busy, or gone meanwhile.
            return


def _is_ours(link: socket.socket) -> bool:
    credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.geteuid())


def _failed(place: Path, error: OSError) -> ThinsyncError:
    return ThinsyncError(
        f"cannot make a socket in {place}: {error.strerror}", hint=f"look at it: ls -ld {place}"
    )

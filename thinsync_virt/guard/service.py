"""The guard as a service: takes requests, holds windows, and undoes whatever is left open.

It runs in a control group of its own (KillMode=process, SendSIGKILL=no), socket-activated by systemd or started
by hand with a socket path. One window per domain at a time, several domains side by side, a thread for each.
On start it takes up the leases that a former guard left.

For tests only: with THINSYNC_TEST_PAUSE_AT=STEP:SECONDS in the *guard's* environment every window waits that long
after the step (``messages.Step``) or until the client goes away. The limits of the window keep running.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from thinsync_virt import __version__
from thinsync_virt.errors import BusyError, ConflictError, GuestError, ThinsyncError, UsageError
from thinsync_virt.guard.batch import LvmProcess
from thinsync_virt.guard.leases import LEASES, Lease, OpenLease, read_leases
from thinsync_virt.guard.messages import (
    Ping,
    Pong,
    UnfitMessageError,
    WindowEvent,
    WindowReport,
    WindowRequest,
)
from thinsync_virt.guard.origins import LvmOrigins
from thinsync_virt.guard.recovery import Undoable, settle
from thinsync_virt.guard.window import Guest, Surroundings, Window
from thinsync_virt.guard.wire import (
    MAX_REQUEST,
    encode_error,
    encode_event,
    encode_pong,
    encode_report,
    parse_request,
)
from thinsync_virt.hypervisor.connection import DEFAULT_URI
from thinsync_virt.hypervisor.freeze import GuestView, LibvirtGuest, SocketGuest
from thinsync_virt.system.locks import hold, lock_path

log = logging.getLogger(__name__)

PAUSE_AT = "THINSYNC_TEST_PAUSE_AT"
_REQUEST_SECONDS = 10.0
_SEND_SECONDS = 30.0
_BREATH_SECONDS = 0.1
_PROBE_SECONDS = 5.0
_FIRST_INHERITED = 3
_PATH_HINT = "name a path where nothing is: thinsync-vm guard --socket PATH"


@dataclass(frozen=True, slots=True)
class Left:
    """What became of a lease that an interrupted window left."""

    domain: str
    settled: bool


class Guard:
    """Windows and leases of one host."""

    def __init__(
        self,
        around: Surroundings,
        guest_of: Callable[[WindowRequest], Guest],
        ways_of: Callable[[Lease], list[Undoable]],
    ) -> None:
        self._around = around
        self._guest_of = guest_of
        self._ways_of = ways_of
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._busy: dict[str, str] = {}
        self._windows: set[threading.Thread] = set()
        self._waker: socket.socket | None = None

    def recover(self) -> list[threading.Thread]:
        """Start undoing what the leases on disk say, in the background."""
        threads = []
        for lease in read_leases(self._around.leases):
            self._busy[lease.lease.uuid] = "the guard still undoes an interrupted window"
            threads.append(self._spawn(self._settle, lease))
        return threads

    def serve(self, listener: socket.socket) -> None:
        """Take connections until :meth:`stop`, then let running windows end (they are short)."""
        listener.settimeout(None)
        woken, self._waker = socket.socketpair()
        with woken, self._waker:
            while not self._stop.is_set():
                ready, _, _ = select.select([listener, woken], [], [])
                if listener in ready and not self._stop.is_set():
                    self._take(listener)
            for thread in list(self._windows):
                thread.join()

    def _take(self, listener: socket.socket) -> None:
        """One connection. Without a descriptor or a thread for it, the windows that are held go on all the same."""
        try:
            connection, _ = listener.accept()
        except OSError as error:
            log.warning("no connection can be taken: %s", error)
            time.sleep(_BREATH_SECONDS)
            return
        thread = threading.Thread(target=self._serve_one, args=(connection,), name="window", daemon=True)
        self._windows.add(thread)
        try:
            thread.start()
        except RuntimeError as error:
            log.warning("no connection can be served: %s", error)
            self._windows.discard(thread)
            connection.close()
            time.sleep(_BREATH_SECONDS)

    def stop(self) -> None:
        """Take no more requests. Leases that are still open stay for the next guard."""
        self._stop.set()
        if self._waker is not None:
            self._waker.send(b"x")

    def handle(
        self, request: WindowRequest, told: Callable[[WindowEvent], None], aborted: threading.Event
    ) -> bytes:
        """Hold a window; the last line of the answer. What cannot be undone at once goes on in the background."""
        try:
            self._begin(request)
        except ThinsyncError as error:
            return encode_error(error)
        window = Window(request, self._guest_of(request), self._around, told, aborted)
        try:
            report = window.hold()
            _log_report(request, report)
            return encode_report(report)
        except ThinsyncError as error:
            log.warning("%s", error)
            return encode_error(error)
        finally:
            self._end(request, window)

    def _begin(self, request: WindowRequest) -> None:
        with self._lock:
            if request.uuid in self._busy:
                raise BusyError(
                    f"domain {request.domain}: {self._busy[request.uuid]}",
                    hint="journalctl -u thinsync-guard",
                )
            self._busy[request.uuid] = "another window is being held"

    def _end(self, request: WindowRequest, window: Window) -> None:
        lease = window.lease
        if lease is None or lease.lease.settled:
            self._forget(request.uuid)
            return
        self._busy[request.uuid] = "the guard still undoes the last window"

        def finish() -> None:
            if window.unfinished is not None:
                window.unfinished.goes_on(self._stop)
            while not lease.lease.settled and not self._stop.wait(0.1):
                # LVM still runs; its end is followed by a look at the volumes. Or the file cannot be written.
                with suppress(ThinsyncError):
                    lease.save()
            self._forget(request.uuid)

        try:
            self._spawn(finish)
        except RuntimeError as error:
            # In this thread, then: its client waits, and the guest does not stay as it is.
            log.warning("domain %s: %s", request.domain, error)
            finish()

    def _settle(self, lease: OpenLease) -> None:
        settle(lease, self._ways_of(lease.lease), self._around.origins, self._stop)
        self._forget(lease.lease.uuid)

    def _forget(self, uuid: str) -> None:
        with self._lock:
            self._busy.pop(uuid, None)

    def _spawn(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        return thread

    def _serve_one(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._answer(connection)
        except (OSError, ThinsyncError) as error:
            log.info("a client went away before its answer: %s", error)
        except Exception:
            log.exception("a request failed in an unforeseen way")
        finally:
            self._windows.discard(threading.current_thread())

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(_REQUEST_SECONDS)
        try:
            _check_peer(connection)
            request = parse_request(_read_line(connection))
        except ThinsyncError as error:
            connection.sendall(encode_error(error))
            return
        if isinstance(request, Ping):
            connection.sendall(encode_pong(Pong(__version__)))
            return
        aborted = threading.Event()
        pause = _pause_of_tests()

        def told(event: WindowEvent) -> None:
            try:
                connection.sendall(encode_event(event))
            except OSError:
                aborted.set()
            if pause is not None and pause[0] == event.step:
                aborted.wait(pause[1])

        connection.settimeout(_SEND_SECONDS)
        try:
            with _watched(connection, aborted):
                answer = self.handle(request, told, aborted)
        except (OSError, RuntimeError, MemoryError) as error:  # no descriptor, thread or memory left
            log.exception("domain %s", request.domain)
            answer = encode_error(
                GuestError(
                    f"domain {request.domain}: the guard could not hold a window: {error}",
                    hint="see what it lacks: journalctl -u thinsync-guard",
                )
            )
        connection.sendall(answer)


def _log_report(request: WindowRequest, report: WindowReport) -> None:
    log.log(
        logging.INFO if report.ok and not report.still_frozen else logging.WARNING,
        "domain %s: %s, frozen %.3f s, paused %.3f s%s%s",
        request.domain,
        report.consistency.value,
        report.frozen_seconds,
        report.paused_seconds,
        f"; {report.reason or report.problem}" if report.reason or report.problem else "",
        f"; {report.hint}" if report.hint else "",
    )


@contextmanager
def _watched(connection: socket.socket, aborted: threading.Event) -> Iterator[None]:
    """Set ``aborted`` when the client closes its end, or says anything more."""
    done, signal_done = socket.socketpair()

    def watch() -> None:
        ready, _, _ = select.select([connection, done], [], [])
        if connection in ready:
            aborted.set()

    thread = threading.Thread(target=watch, name="watch client", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal_done.send(b"x")
        thread.join()
        done.close()
        signal_done.close()


def _check_peer(connection: socket.socket) -> None:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", credentials)
    if uid not in (0, os.geteuid()):
        raise ConflictError("only root may ask the guard", hint="run it as root, or with sudo")


def _read_line(connection: socket.socket) -> bytes:
    line = b""
    deadline = time.monotonic() + _REQUEST_SECONDS
    while not line.endswith(b"\n"):
        # In all, not for each part: a guard that is to stop waits for its clients.
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(65536)
        line += part
        if not part or len(line) > MAX_REQUEST:
            raise UnfitMessageError("the request is cut off or too long")
    return line


def _pause_of_tests() -> tuple[str, float] | None:
    step, colon, seconds = os.environ.get(PAUSE_AT, "").partition(":")
    return (step, float(seconds)) if colon else None


# Real surroundings


def _surroundings(leases: Path) -> Surroundings:
    return Surroundings(
        origins=LvmOrigins(),
        start_lvm=LvmProcess,
        past_libvirt=_past_libvirt,
        leases=leases,
    )


def _past_libvirt(view: GuestView | Lease) -> SocketGuest:
    return SocketGuest(view.qemu, view.agent_socket, view.monitor_socket)


def make_guard(leases: Path = LEASES, uri: str = DEFAULT_URI) -> Guard:
    """A guard for this host's libvirt and LVM."""
    return Guard(
        _surroundings(leases),
        guest_of=lambda request: LibvirtGuest(request.domain, request.uuid, uri),
        ways_of=lambda lease: [LibvirtGuest(lease.domain, lease.uuid, uri), _past_libvirt(lease)],
    )


def serve(path: str | Path | None = None, *, leases: Path = LEASES, uri: str = DEFAULT_URI) -> None:
    """Be the guard until SIGTERM: on systemd's socket, or with ``path`` on one that it makes itself.

    Raises UsageError (neither was given, or no socket can be made there), BusyError (another guard runs),
    UnreachableError.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    inherited = _inherited_listener() if path is None else None
    # A guard that runs keeps its socket: no other is put in its place before that one has ended.
    with (
        hold(lock_path("guard", directory=leases.parent), 5.0, what="thinsync-guard"),
        inherited or _own_listener(Path(path or "")) as listener,
    ):
        guard = make_guard(leases, uri)
        guard.recover()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: guard.stop())
        guard.serve(listener)


def undo_left_overs(
    seconds: float = 30.0, *, leases: Path = LEASES, uri: str = DEFAULT_URI
) -> tuple[Left, ...]:
    """Undo what interrupted windows left, when no guard runs (``thinsync-vm recover``); about that long in all.

    Raises BusyError when a guard runs: then it does this itself.
    """
    if not list(read_leases(leases)):
        return ()
    with hold(lock_path("guard", directory=leases.parent), 0.0, what="thinsync-guard"):
        found = list(read_leases(leases))
        guard = make_guard(leases, uri)
        threads = guard.recover()
        deadline = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        # The next guard takes up what is left. Whoever went on here would thaw in the midst of its windows.
        guard.stop()
        for thread in threads:
            thread.join()
    return tuple(Left(lease.lease.domain, not lease.path.exists()) for lease in found)


def _own_listener(path: Path) -> socket.socket:
    """A socket of ours at ``path``, in the place of one that nobody serves any more, and of nothing else."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _give_way(path)
        return _bound(path)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{path}: no socket can be made there: {reason}", hint=_PATH_HINT) from error


def _bound(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(16)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _give_way(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} is there, and is no socket", hint=_PATH_HINT)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise BusyError(f"{path}: somebody listens there already", hint="see who: ss -xlp; or name another path")


def _inherited_listener() -> socket.socket:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise UsageError(
            "the guard is started by systemd's socket",
            hint="systemctl start thinsync-guard.socket; by hand: thinsync-vm guard --socket PATH",
        )
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    os.set_inheritable(_FIRST_INHERITED, False)
    return socket.socket(fileno=_FIRST_INHERITED)

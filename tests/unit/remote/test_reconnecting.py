"""A target that is lost in a transfer: what it acknowledged until then is known, and it can be reached again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest

from tests.unit.remote.loopback import serving
from tests.unit.values import KEY, identifier, point
from thinsync_virt.errors import BusyError, StreamError, UnreachableError
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.plans import Mode
from thinsync_virt.model.points import Consistency, RecoveryPoint
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.server import CallIO, Handler, InterruptedServerError
from thinsync_virt.remote.target_client import Lanes, RemoteTarget
from thinsync_virt.remote.target_server import ServedProver, ServedTarget, target_handlers
from thinsync_virt.stream.events import Checkpoint, Event
from thinsync_virt.stream.frames import Piece
from thinsync_virt.stream.header import StreamDisk, StreamHeader
from thinsync_virt.stream.writer import StreamWriter
from thinsync_virt.units import KIB, MIB

PIECE = 64 * KIB
PIECES = 16


class Target:
    """Acknowledges at each checkpoint, as the real one does when all is on stable storage."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.stopped = False

    def begin(self, domain: str) -> None:
        self.seen.append("begin")

    def receive(
        self,
        events: Iterator[Event],
        expected: Mapping[str, Announcement],
        progress: Callable[[int], None],
        acknowledge: Callable[[dict[str, int]], None],
    ) -> RecoveryPoint:
        for event in events:
            if isinstance(event, Checkpoint):
                acknowledge({"vda": event.positions[0]})
                if self.stopped:
                    raise InterruptedServerError("the server was stopped by SIGTERM")
        return point(2)


class Stream:
    """A stream with a checkpoint after each piece."""

    def __init__(self) -> None:
        self.read = 0
        self.expected = {"vda": Announcement(PIECE * PIECES, 0, 1)}

    def __iter__(self) -> Iterator[Sequence[Piece]]:
        writer = StreamWriter()
        disk = StreamDisk("vda", MIB, 64 * KIB, Mode.FULL, None)
        header = StreamHeader(
            "web01",
            KEY.domain,
            KEY,
            identifier(2),
            2,
            1000,
            Consistency.CRASH,
            None,
            "",
            0,
            "0.1.0",
            identifier(7),
            (disk,),
        )
        yield writer.begin(header)
        for number in range(PIECES):
            yield writer.data(0, number * PIECE, b"x" * PIECE)
            self.read += PIECE
            yield writer.checkpoint()
        yield writer.end()


def handlers(target: Target) -> dict[str, Handler]:
    return target_handlers(cast(ServedTarget, target), cast(ServedProver, object()))


def send(remote: RemoteTarget, durable: list[int]) -> RecoveryPoint:
    stream: Any = Stream()
    return remote.receive(stream, lambda _: None, lambda positions: durable.append(positions["vda"]))


def test_what_is_durable_is_told_while_it_is_sent() -> None:
    durable: list[int] = []
    with serving(handlers(Target())) as client:
        remote = RemoteTarget(client)
        assert send(remote, durable) == point(2)
        assert remote.connected
    assert durable == [number * PIECE for number in range(1, PIECES + 1)]


@pytest.mark.parametrize("cut_after", [20 * KIB, 300 * KIB, 900 * KIB])
def test_a_target_that_was_lost_is_reached_again(cut_after: int) -> None:
    durable: list[int] = []
    served = Target()
    with ExitStack() as stack:
        first = stack.enter_context(serving(handlers(Target()), cut_after=cut_after))
        remote = RemoteTarget(first, "op@beta:2222", lambda: stack.enter_context(serving(handlers(served))))
        stack.callback(remote.close)
        with pytest.raises(UnreachableError) as lost:
            send(remote, durable)
        assert lost.value.retry
        assert not remote.connected
        assert all(position <= cut_after for position in durable)
        with pytest.raises(UnreachableError):
            remote.begin(KEY.domain)
        remote.reconnect()
        remote.begin(KEY.domain)
        assert served.seen == ["begin"]
        assert send(remote, []) == point(2)
        assert (remote.host, remote.address) == ("beta", "op@beta:2222")


def test_a_target_whose_lane_was_lost_is_reached_again_with_all_lanes() -> None:
    durable: list[int] = []
    served = Target()
    dialled: list[Client] = []
    number = count()
    # pytest's own directories have names too long for a socket.
    with TemporaryDirectory(prefix="lanes-") as directory, ExitStack() as stack:
        place = Path(directory) / "lanes"

        def connect(target: Target) -> Client:
            return stack.enter_context(serving(handlers(target), place=place))

        def dial() -> Client:
            # Of the first three, whichever has a block first is lost.
            cut_after = 100 * KIB if next(number) < 3 else None
            client = stack.enter_context(serving({}, cut_after=cut_after, place=place))
            dialled.append(client)
            return client

        remote = RemoteTarget(
            connect(Target()), connect=lambda: connect(served), lanes=Lanes(3, dial, least=0)
        )
        stack.callback(remote.close)
        with pytest.raises(UnreachableError) as lost:
            send(remote, durable)
        assert lost.value.retry
        assert not remote.connected
        assert len(durable) < PIECES
        assert all(client.lost for client in dialled), "one lane lost, all closed"
        remote.reconnect()
        remote.begin(KEY.domain)
        again: list[int] = []
        assert send(remote, again) == point(2)
        assert again == [piece * PIECE for piece in range(1, PIECES + 1)]
        assert served.seen == ["begin"]
        assert len(dialled) == 6
        assert list(place.iterdir()) == [], "no socket stays behind"


def test_a_server_that_has_to_end_is_lost_as_well() -> None:
    """It says so in good order; what comes next needs another one."""
    served = Target()
    served.stopped = True
    with serving(handlers(served)) as client:
        remote = RemoteTarget(client)
        with pytest.raises(UnreachableError) as lost:
            send(remote, [])
        assert lost.value.retry
        assert not remote.connected
        with pytest.raises(UnreachableError) as final:
            remote.reconnect()
        assert not final.value.retry, "there is no other way to it"


def test_other_errors_leave_the_connection_as_it_is() -> None:
    class Busy(Target):
        def receive(self, *_: object) -> RecoveryPoint:
            raise BusyError("LVM is busy")

    with serving(handlers(Busy())) as client:
        remote = RemoteTarget(client)
        with pytest.raises(BusyError):
            send(remote, [])
        assert remote.connected
        remote.begin(KEY.domain)


@pytest.mark.parametrize(
    "report", [{}, {"durable": 5}, {"durable": {"vda": "x"}}, {"durable": {"vda": True}}]
)
def test_an_acknowledgement_that_makes_no_sense_ends_it(report: dict[str, Any]) -> None:
    def receive(params: dict[str, Any], io: CallIO) -> dict[str, Any]:
        io.progress(report)
        view = memoryview(bytearray(MIB))
        while io.receive().readinto(view):
            pass
        return {}

    with serving({"receive": receive}) as client, pytest.raises(StreamError, match="durable"):
        send(RemoteTarget(client), [])

"""Records a conversation with a store and two lanes: run it once for each protocol version, and keep what it writes.

python -m tests.unit.remote.record_lanes [FOLDER]       FOLDER: recorded_lanes/VERSION beside this file
"""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.unit.remote.conversation import Frames, MemoryTarget, point
from tests.unit.remote.loopback import OURS, Loopback, server_thread
from tests.unit.remote.record import listening
from tests.unit.values import DOMAIN, NAME
from thinsync_virt.model.targets import StoreTarget, TargetKind
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import PROTOCOLS
from thinsync_virt.remote.lane_blocks import HEAD
from thinsync_virt.remote.lane_sender import Dial
from thinsync_virt.remote.server import Handler
from thinsync_virt.remote.target_client import Lanes, RemoteTarget
from thinsync_virt.remote.target_server import openable, target_handlers
from thinsync_virt.stream.reader import StreamReader

RECORDED = Path(__file__).parent / "recorded_lanes"
COUNT = 2
STORE = StoreTarget(TargetKind.ARCHIVE, "/srv/copies")


def handlers(target: MemoryTarget, opened: list[StoreTarget]) -> dict[str, Handler]:
    """A host whose stores all are ``target``; which were opened is noted. Its own pools answer nothing."""

    def open_store(store: StoreTarget) -> dict[str, Handler]:
        opened.append(store)
        return target_handlers(target, target)

    nobody: Any = None
    return openable(target_handlers(nobody, nobody), open_store)


def converse(client: Client, dial: Dial) -> list[Any]:
    """What a client asks of a store to which it sends by lanes; the answers."""
    durable: list[dict[str, int]] = []
    target = RemoteTarget(client, store=STORE, lanes=Lanes(COUNT, dial, least=1))
    target.begin(DOMAIN)
    states = target.states(DOMAIN, NAME)
    return [states, target.receive(Frames(), lambda _: None, durable.append), durable, target.points(DOMAIN)]


def expected_answers() -> list[Any]:
    """What the target says, without anything between."""
    target = MemoryTarget()
    durable: list[dict[str, int]] = []
    stream = b"".join(bytes(piece) for pieces in Frames() for piece in pieces)
    made = target.receive(iter(StreamReader().feed(stream)), Frames.expected, lambda _: None, durable.append)
    assert made == point(2, disks=("vda", "vdb"))
    return [target.states(DOMAIN, NAME), made, durable, target.points(DOMAIN)]


def put_together(lanes: list[bytes]) -> bytes:
    """The stream that the blocks of all lanes make: numbered from 0, without gaps, ended by an empty one."""
    blocks: dict[int, bytes] = {}
    for lane in lanes:
        position, last = 0, -1
        while position < len(lane):
            number, length = HEAD.unpack_from(lane, position)
            assert last < number and number not in blocks
            position, last = position + HEAD.size + length, number
            blocks[number] = lane[position - length : position]
            assert position <= len(lane)
    assert sorted(blocks) == list(range(len(blocks)))
    assert [number for number, block in blocks.items() if not block] == [len(blocks) - 1]
    return b"".join(blocks[number] for number in range(len(blocks)))


def record(folder: Path) -> None:
    """What each side said: client.bin and server.bin of the first connection, lane-N.* of the others."""
    folder.mkdir(parents=True, exist_ok=True)
    said: dict[str, tuple[bytearray, bytearray]] = {}
    table = handlers(MemoryTarget(), [])
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lanes-"))) / "lanes"

        def dial(name: str) -> Client:
            near, near_relay = socket.socketpair()
            far_relay, far = socket.socketpair()
            heard = said[name] = (bytearray(), bytearray())
            held: list[contextlib.AbstractContextManager[Any]] = [
                near_relay,
                far_relay,
                server_thread(far, table, place=place),
                listening(near_relay, far_relay, heard[0]),
                listening(far_relay, near_relay, heard[1]),
            ]
            for one in held:
                stack.enter_context(one)
            return stack.enter_context(Client(Loopback(near), OURS, timeout=10))

        first = dial("")
        converse(first, lambda: dial(f"lane-{len(said) - 1}."))
        first.close()
    for name, heard in said.items():
        for side, words in zip(("client", "server"), heard, strict=True):
            (folder / f"{name}{side}.bin").write_bytes(words)


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED / str(max(PROTOCOLS)))

"""Records the conversation of this release: run it once for each protocol version, and keep what it writes for ever.

python -m tests.unit.remote.record [FOLDER]       FOLDER: recorded/VERSION beside this file
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.unit.remote.conversation import MemoryTarget, converse, frames, meaning
from tests.unit.remote.loopback import OURS, Loopback, server_thread
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import PROTOCOLS
from thinsync_virt.remote.target_client import RemoteTarget
from thinsync_virt.remote.target_server import target_handlers
from thinsync_virt.stream.reader import StreamReader

RECORDED = Path(__file__).parent / "recorded"


def record(folder: Path) -> None:
    """client.bin and server.bin: what each side said; stream.bin, and stream.json: the events that it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    target = MemoryTarget()
    near, near_relay = socket.socketpair()
    far_relay, far = socket.socketpair()
    said = {"client": bytearray(), "server": bytearray()}
    with (
        near_relay,
        far_relay,
        server_thread(far, target_handlers(target, target)),
        listening(near_relay, far_relay, said["client"]),
        listening(far_relay, near_relay, said["server"]),
        Client(Loopback(near), OURS, timeout=10) as client,
    ):
        converse(RemoteTarget(client))
    for name, heard in said.items():
        (folder / f"{name}.bin").write_bytes(heard)
    stream = b"".join(bytes(piece) for pieces in frames() for piece in pieces)
    (folder / "stream.bin").write_bytes(stream)
    events = [meaning(event) for event in StreamReader().feed(stream)]
    (folder / "stream.json").write_text(json.dumps(events, indent=1) + "\n")


@contextlib.contextmanager
def listening(source: socket.socket, sink: socket.socket, heard: bytearray) -> Iterator[None]:
    def relay() -> None:
        # A lane may be let go while its server still says that it was: then nobody takes that.
        with contextlib.suppress(ConnectionError):
            while data := source.recv(65536):
                heard.extend(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=relay)
    thread.start()
    try:
        yield
    finally:
        thread.join(20)


if __name__ == "__main__":
    record(Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED / str(max(PROTOCOLS)))

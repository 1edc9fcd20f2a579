"""An orderly reboot of the target in the middle of a transfer: what has come there stays."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.unit.endpoint.test_resume import SIZE, Sender
from tests.unit.remote import served_target
from tests.unit.remote.test_server_process import OURS, start, wait_for
from tests.unit.values import DOMAIN, KEY
from thinsync_virt.endpoint.catalogue import read_catalogue
from thinsync_virt.endpoint.source import outgoing
from thinsync_virt.endpoint.target.journal import TransferJournal
from thinsync_virt.errors import UnreachableError
from thinsync_virt.model.extents import Announcement
from thinsync_virt.model.tags import Role
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.target_client import RemoteTarget
from thinsync_virt.stream.frames import Piece
from thinsync_virt.units import KIB


class Halted:
    """A stream of which two thirds are sent, and the rest when it may."""

    read = 0

    def __init__(self, content: bytes, may_go_on: threading.Event) -> None:
        self.content = content
        self.may_go_on = may_go_on
        self.expected = {name: Announcement(SIZE, 0, 1) for name in ("vda", "vdb")}

    def __iter__(self) -> Iterator[Sequence[Piece]]:
        cut = len(self.content) * 2 // 3
        yield [self.content[:cut]]
        assert self.may_go_on.wait(60)
        yield [self.content[cut:]]


def test_two_signals_at_once_leave_what_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a session sends SIGTERM and SIGHUP together: the second does not wait, and removes nothing."""
    monkeypatch.setattr(outgoing, "CHECKPOINT_LEAST", 64 * KIB)
    monkeypatch.setattr(outgoing, "PIECE", 16 * KIB)
    directory = tmp_path / "beta"
    directory.mkdir()
    sender = Sender(tmp_path)
    journal = TransferJournal(directory / "transfers")
    server = start(tmp_path, use_socket=True, script=str(served_target.__file__), more=(str(directory),))
    halted = threading.Event()

    def reboot() -> None:
        try:
            wait_for(lambda: journal.read(KEY) is not None)
            # Both are there before it runs again.
            server.process.send_signal(signal.SIGSTOP)
            os.waitpid(server.process.pid, os.WUNTRACED)
            server.process.send_signal(signal.SIGTERM)
            server.process.send_signal(signal.SIGHUP)
            server.process.send_signal(signal.SIGCONT)
        finally:
            halted.set()

    thread = threading.Thread(target=reboot)
    try:
        with Client(server, OURS) as client:
            target = RemoteTarget(client)
            target.begin(DOMAIN)
            thread.start()
            with pytest.raises(UnreachableError):
                target.receive(Halted(sender.bytes_of(), halted), lambda _: None, lambda _: None)
        assert server.process.wait(60) in (128 + signal.SIGTERM, 128 + signal.SIGHUP)
    finally:
        thread.join(60)
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(60)
    stored = pickle.loads((directory / "volumes").read_bytes())
    (left,) = read_catalogue(tuple(stored.values()), Role.TARGET).unfinished
    found = journal.find(KEY, (left,))
    assert found is not None and any(found.positions.values())

"""Stories of single files and of the volumes of ``receive``: done, cut, looked at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.flushes.worst_case import WorstCase
from tests.unit.endpoint.between import COPY, FIRST, make_world, noise
from tests.unit.endpoint.test_metadata_lease import HEALTHY, POOL, FakePool, Killed
from tests.unit.hypervisor import test_register as registering
from tests.unit.values import KEY, LVM_UUID, identifier, pool_report
from thinsync_virt.cli import receive_command
from thinsync_virt.endpoint.metadata_lease import MetadataLeases
from thinsync_virt.endpoint.pool_times import PoolTimes
from thinsync_virt.endpoint.target.journal import Entry, TransferJournal
from thinsync_virt.endpoint.target.sown_sets import SownSet, SownSets
from thinsync_virt.endpoint.volumes.receive import Reception
from thinsync_virt.errors import ThinsyncError
from thinsync_virt.hypervisor import register, tpm, tpm_state
from thinsync_virt.hypervisor.connection import Connection, connect
from thinsync_virt.hypervisor.replica import names
from thinsync_virt.hypervisor.replica.draft import TpmState
from thinsync_virt.model.definition import DOMAIN_XML, Definition
from thinsync_virt.model.pools import HolderKind
from thinsync_virt.model.transfers import Interrupted
from thinsync_virt.model.volumes import PoolMode
from thinsync_virt.system import steps
from thinsync_virt.system.pipes import open_output


class Ground:
    """A directory that loses what was not flushed, from :meth:`begin` on also what a test leaves out."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...]) -> None:
        self.root = tmp_path / "disk"
        self.root.mkdir()
        self.monkeypatch = monkeypatch
        self.power = WorstCase(self.root, monkeypatch, tmp_path / "leave-out")
        self.hits = 0
        self._lines = lines

    def begin(self) -> None:
        """What is there is stable; what comes is at stake."""
        self.power.settle()
        self.power.leave_out(*self._lines)

    def cut(self) -> None:
        """The power goes and comes back."""
        self.hits += self.power.left_out
        self.power.leave_out()
        self.power.cut()


def stream_to_a_file(ground: Ground) -> None:
    path = ground.root / "web01.tsv"
    path.write_bytes(b"the one before")
    ground.begin()
    with open_output(str(path)) as out:
        out.write([b"a stream"])
    ground.cut()
    assert path.read_bytes() == b"a stream"


def definition_to_a_file(ground: Ground) -> None:
    path = ground.root / "new" / "web01.xml"
    ground.begin()
    done = Reception((), None, definition=Definition({DOMAIN_XML: b"<domain/>"}))
    receive_command._write_definition(done, str(path))
    ground.cut()
    assert path.read_bytes() == b"<domain/>"


def times_of_a_pool(ground: Ground) -> None:
    histories = ground.root / "times"
    report = pool_report()
    for hour in range(48):
        if hour == 47:
            ground.begin()
        PoolTimes(histories, lambda hour=hour: 3600.0 * hour).note(replace(report, time=hour))  # type: ignore[misc]
    ground.cut()
    pace = PoolTimes(histories, lambda: 48 * 3600.0).note(replace(report, time=48))
    assert pace is not None, "the pace of the last days is lost"


class _Lease:
    """A pool, and the leases of a host that has just been started."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.kernel = FakePool()

    @property
    def leases(self) -> MetadataLeases:
        where = self.ground.root
        return MetadataLeases(
            self.kernel, locks=where.with_name("locks"), records=where / "records", sleep=lambda _: None
        )

    def hold(self, block: int | None) -> None:
        self.kernel.status = replace(HEALTHY, held_root=block)

    def crashed(self) -> int:
        """A process of ours was killed with the lease; its block."""
        with suppress(Killed), self.leases.hold(POOL):
            held = self.kernel.status.held_root
            self.kernel.before["release"] = self._killed
            raise Killed
        assert held is not None
        self.hold(held)
        self.kernel.before.clear()
        (self.ground.root / "records" / POOL.uuid).write_text(
            f'{{"version": 1, "pool": "vg0/pool", "pid": 1, "block": {held}}}\n'
        )
        return held

    def _killed(self) -> None:
        raise Killed

    def foreign(self, block: int = 77) -> None:
        """After the power cut: somebody else's metadata snapshot is not taken for ours."""
        self.ground.cut()
        self.hold(block)
        assert self.leases.holder(POOL).kind is HolderKind.FOREIGN, "somebody else's would be released"


def intent(ground: Ground) -> None:
    one = _Lease(ground)
    ground.begin()

    # The metadata snapshot is there, its block is not recorded yet.
    one.kernel.after["reserve"] = one.kernel.kill
    with suppress(Killed), one.leases.hold(POOL):
        pass
    one.kernel.asker_killed = False
    assert one.kernel.status.held_root is not None
    ground.cut()
    assert one.leases.holder(POOL).kind is HolderKind.CRASHED, "ours is taken for somebody else's"


def given_back(ground: Ground) -> None:
    one = _Lease(ground)
    ground.begin()
    with one.leases.hold(POOL) as lease:
        pass
    one.foreign(lease.held_root)


def taken_away(ground: Ground) -> None:
    one = _Lease(ground)
    ground.begin()
    with suppress(ThinsyncError), one.leases.hold(POOL) as lease:
        one.hold(None)
    one.foreign(lease.held_root)


def somebody_was_faster(ground: Ground) -> None:
    one = _Lease(ground)
    ground.begin()
    one.kernel.before["reserve"] = lambda: one.hold(77)
    with suppress(ThinsyncError), one.leases.hold(POOL, foreign_wait=0):
        raise AssertionError("somebody has it")
    one.foreign()


def pool_refused(ground: Ground) -> None:
    one = _Lease(ground)
    ground.begin()

    def broken() -> None:
        one.kernel.status = replace(HEALTHY, mode=PoolMode.READ_ONLY)

    one.kernel.before["reserve"] = broken
    with suppress(ThinsyncError), one.leases.hold(POOL):
        raise AssertionError("it is read-only")
    one.foreign()


def vanished_at_once(ground: Ground) -> None:
    one = _Lease(ground)
    ground.begin()
    one.kernel.after["reserve"] = lambda: one.hold(None)
    with suppress(ThinsyncError), one.leases.hold(POOL):
        raise AssertionError("it is gone")
    one.foreign()


def cleaned_up(ground: Ground) -> None:
    one = _Lease(ground)
    held = one.crashed()
    ground.begin()
    assert one.leases.recover(POOL)
    one.foreign(held)


def released_by_hand(ground: Ground) -> None:
    one = _Lease(ground)
    held = one.crashed()
    ground.begin()
    assert one.leases.release_foreign(POOL)
    one.foreign(held)


def volume_received(ground: Ground) -> None:
    ground.monkeypatch.setattr(steps, "STOP_AT", Path("/nonexistent"))
    world = make_world(ground.root, ground.monkeypatch)
    world.put(FIRST, noise(1))
    stream = world.send(FIRST)
    put = world.lvm.put

    def durably(one: Any, content: bytes) -> Any:
        made = put(one, content)
        ground.power.keep_path(Path(made.name.path))
        return made

    ground.monkeypatch.setattr(world.lvm, "put", durably)
    ground.begin()
    world.receive(stream)
    ground.power.keep_path(ground.root / "devices")
    ground.cut()
    assert world.content(COPY) == noise(1), "reported as received, and not whole"


class _Libvirt:
    """libvirt's test driver, with its definitions written as QEMU's driver does: a rename, and no flush."""

    def __init__(self, ground: Ground) -> None:
        self.definitions = ground.root / "etc"
        self.media = ground.root / "images" / "new"
        (self.definitions / "autostart").mkdir(parents=True)
        self.media.parent.mkdir()
        ground.monkeypatch.setattr(names, "MEDIA_DIRECTORY", str(self.media))
        ground.monkeypatch.setattr(register, "DIRECTORIES", (str(self.media),))
        ground.monkeypatch.setattr(register, "_DEFINITIONS", str(self.definitions))

    def defines(self, connection: Connection) -> Connection:
        outer = self

        class Writing:
            def __getattr__(self, name: str) -> Any:
                return getattr(connection.raw, name)

            def defineXML(self, text: str) -> Any:
                made = connection.raw.defineXML(text)
                outer.write(text)
                return made

        return Connection(Writing(), registering.URI)

    def write(self, text: str) -> None:
        new = self.definitions / "web01.xml.new"
        new.write_text(text)
        new.rename(self.definitions / "web01.xml")

    @property
    def disk(self) -> str:
        text = (self.definitions / "web01.xml").read_text()
        return "new" if "web01-2" in text else "old" if "web01-1" in text else "torn"


def _clean(connection: Connection) -> None:
    for handle in connection.raw.listAllDomains(0):
        if handle.isActive():
            handle.destroy()
        handle.undefineFlags(1)


def registered(ground: Ground) -> None:
    libvirt = _Libvirt(ground)
    with connect(registering.URI) as opened:
        _clean(opened)
        libvirt.write("<domain>web01-1</domain>")
        ground.begin()
        register.define(libvirt.defines(opened), registering.plan(2))
        (domain,) = register.registered(opened, "web01", registering.UUID)
        ground.cut()
        assert libvirt.disk == "new", "the definition that was reported is not there"
        for file in domain.files:
            assert Path(file).read_bytes() == b"seed", "what the definition refers to is not there"


def autostart_off(ground: Ground) -> None:
    libvirt = _Libvirt(ground)
    with connect(registering.URI) as opened:
        _clean(opened)
        connection = libvirt.defines(opened)
        register.define(connection, registering.plan(1))
        link = libvirt.definitions / "autostart" / "web01.xml"
        link.symlink_to(libvirt.definitions / "web01.xml")
        opened.lookup("web01").setAutostart(1)
        ground.begin()
        # As libvirt does when it is switched off, before we flush.
        link.unlink()
        register.define(connection, registering.plan(2))
        ground.cut()
        assert not link.is_symlink(), "two hosts would start it"


def settled(ground: Ground) -> None:
    libvirt = _Libvirt(ground)
    libvirt.write("<domain>web01-1</domain>")
    ground.begin()
    libvirt.write("<domain>web01-2</domain>")
    register.settle_all()
    ground.cut()
    assert libvirt.disk == "new"


def tpm_state_placed(ground: Ground) -> None:
    """A place that libvirt fixes: held, then with the point's state; beside it what another program left there."""
    directory = ground.root / "swtpm"
    place = directory / "UUID" / "tpm2" / "tpm2-00.permall"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"somebody's")
    state = TpmState(str(place.parent / "thinsync-2" / place.name), str(place), b"keys of point 2")
    ground.monkeypatch.setattr(tpm, "TPM_DIRECTORY", str(directory))
    ground.monkeypatch.setattr(tpm_state, "_owner", lambda: (-1, -1))
    ground.begin()
    tpm_state.prepare(state, False, lambda _: None)
    tpm_state.put_in_place(state, lambda _: None)
    ground.cut()
    assert Path(state.path).read_bytes() == state.data, "the definition may name it"
    assert place.read_bytes() == state.data, "the replica would start with other keys"
    assert place.with_name(f"{place.name}.before-thinsync").read_bytes() == b"somebody's"


def tpm_state_gone(ground: Ground) -> None:
    """A place that libvirt fixes, with an older point's state, and a point whose TPM has none."""
    directory = ground.root / "swtpm"
    place = directory / "UUID" / "tpm2" / "tpm2-00.permall"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"keys of point 1")
    state = TpmState(str(place.parent / "thinsync-2" / place.name), str(place), b"")
    ground.monkeypatch.setattr(tpm, "TPM_DIRECTORY", str(directory))
    ground.monkeypatch.setattr(tpm_state, "_owner", lambda: (-1, -1))
    ground.begin()
    tpm_state.prepare(state, True, lambda _: None)
    tpm_state.put_in_place(state, lambda _: None)
    ground.cut()
    assert not place.exists(), "the replica would not start, or with other keys"
    assert Path(state.path).read_bytes() == b"", "recover could not tell that there is none"


def tpm_state_named(ground: Ground) -> None:
    """A directory of the point's own, which the definition names."""
    directory = ground.root / "swtpm"
    (directory / "UUID" / "tpm2").mkdir(parents=True)
    state = TpmState(
        str(directory / "UUID" / "tpm2" / "thinsync-2" / "tpm2-00.permall"), "", b"keys of point 2"
    )
    ground.monkeypatch.setattr(tpm, "TPM_DIRECTORY", str(directory))
    ground.monkeypatch.setattr(tpm_state, "_owner", lambda: (-1, -1))
    ground.begin()
    tpm_state.prepare(state, True, lambda _: None)
    ground.cut()
    assert Path(state.path).read_bytes() == state.data, "the definition names it"


def journal_beside_a_note(ground: Ground) -> None:
    """The directory of the journals was made for the note of what was made from seeds."""
    volumes, journals = {"vda": LVM_UUID}, ground.root / "thinsync" / "transfers"
    ground.begin()
    SownSets(journals).write(KEY, SownSet(identifier(1), {"vda": "vg0/restored"}, volumes))
    transfer = Interrupted(identifier(2), "", identifier(3), {"vda": 4096})
    TransferJournal(journals).write(Entry(KEY, transfer, volumes, {"vda": True}))
    ground.cut()
    assert TransferJournal(journals).read(KEY) is not None, "it was acknowledged"


SMALL: dict[str, Callable[[Ground], None]] = {
    "stream to a file": stream_to_a_file,
    "definition to a file": definition_to_a_file,
    "pool times": times_of_a_pool,
    "intent": intent,
    "given back": given_back,
    "taken away": taken_away,
    "somebody was faster": somebody_was_faster,
    "pool refused": pool_refused,
    "vanished at once": vanished_at_once,
    "cleaned up": cleaned_up,
    "released by hand": released_by_hand,
    "volume received": volume_received,
    "registered": registered,
    "autostart off": autostart_off,
    "settled": settled,
    "journal beside a note": journal_beside_a_note,
    "TPM state placed": tpm_state_placed,
    "TPM state named": tpm_state_named,
    "TPM state gone": tpm_state_gone,
}

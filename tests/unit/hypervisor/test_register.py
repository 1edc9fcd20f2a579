"""Registering against libvirt's own test driver: real definitions, no guests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.hypervisor.samples import CHOSEN, FACTS, POINT, TARGET_VG, definition_of, with_files
from thinsync_virt.errors import ConflictError, GuestError, NotFoundError, NotReplicableError, ThinsyncError
from thinsync_virt.hypervisor import register, tpm
from thinsync_virt.hypervisor.connection import Connection, connect, libvirt_module
from thinsync_virt.hypervisor.driver import LibvirtHypervisor
from thinsync_virt.hypervisor.facts import Architecture, DomainSupport
from thinsync_virt.hypervisor.markup import parse
from thinsync_virt.hypervisor.replica import names
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan, plan_replica
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Mark

URI = "test:///default"
UUID = "6f3a1c528d0e4b7a9c112a5d3e4f6071"
KEY = ReplicaKey(UUID, TARGET_VG)
FACTS_HERE = replace(
    with_files(FACTS, file=list(tpm.TOOLS)),
    architectures={"x86_64": Architecture("/usr/bin/test", {"pc": "pc"}, frozenset({"test"}))},
    support=DomainSupport(),
)
XML = """
<domain type='test'>
  <name>{name}</name>
  <uuid>6f3a1c52-8d0e-4b7a-9c11-2a5d3e4f6071</uuid>
  <memory unit='KiB'>65536</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/><source dev='/dev/vg0/web01'/><target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/><source file='/seed.iso'/><target dev='hdc' bus='ide'/><readonly/>
    </disk>
    <graphics type='vnc' port='-1' passwd='s3cret'/>
  </devices>
</domain>
"""


class Overtaken:
    """A virConnect of which a switch is overtaken: ``hook`` runs just before each definition."""

    def __init__(self, raw: Any, hook: Callable[[], None]) -> None:
        self._raw = raw
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def defineXML(self, text: str) -> Any:
        self._hook()
        return self._raw.defineXML(text)


@pytest.fixture
def connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    pytest.importorskip("libvirt")
    monkeypatch.setattr(names, "MEDIA_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(tpm, "TPM_DIRECTORY", str(tmp_path / "swtpm"))
    monkeypatch.setattr(register, "DIRECTORIES", (str(tmp_path),))
    monkeypatch.setattr(register, "_DEFINITIONS", str(tmp_path))
    with connect(URI) as opened:
        for handle in opened.raw.listAllDomains(0):
            if handle.isActive():
                handle.destroy()
            handle.undefineFlags(1)  # with its managed-save image
        yield opened


def plan(sequence: int = 1, name: str = "web01", medium: bytes = b"seed") -> ReplicaPlan:
    mark = Mark(KEY, f"{sequence:032x}"[::-1], sequence)
    definition = definition_of(XML.format(name=name), CHOSEN, {"media/hdc": medium})
    return plan_replica(definition, mark, {"vda": f"/dev/vg1/web01-{sequence}"}, FACTS_HERE)


def tpm_plan(sequence: int, state: bytes | None, version: int = 9_000_000) -> ReplicaPlan:
    """A plan for a guest with a TPM."""
    mark = Mark(KEY, f"{sequence:032x}"[::-1], sequence)
    text = XML.format(name="web01").replace(
        "<graphics", "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm><graphics"
    )
    parts = {} if state is None else {"tpm/tpm2-00.permall": state}
    definition = definition_of(text, CHOSEN, parts)
    facts = replace(FACTS_HERE, libvirt_version=version)
    return plan_replica(definition, mark, {"vda": f"/dev/vg1/web01-{sequence}"}, facts)


def keep_definition(connection: Connection, directory: Path) -> None:
    """The test driver keeps no files; the QEMU driver does."""
    (directory / "web01.xml").write_text(connection.lookup("web01").XMLDesc(2 | 1))


def paths(connection: Connection) -> tuple[str, ...]:
    (domain,) = register.registered(connection, "web01", UUID)
    return tuple(domain.paths.values())


def test_a_first_definition(connection: Connection, tmp_path: Path) -> None:
    assert register.define(connection, plan())
    (domain,) = register.registered(connection, "web01", UUID)
    assert domain.mark == Mark(KEY, f"{1:032x}"[::-1], 1)
    assert dict(domain.paths) == {"vda": "/dev/vg1/web01-1"}
    assert not domain.active
    assert dict(domain.live_paths) == {}
    (file,) = domain.files
    assert Path(file).read_bytes() == b"seed"
    assert Path(file).parent == tmp_path


def test_the_same_again_writes_nothing(connection: Connection) -> None:
    register.define(connection, plan())
    calls: list[str] = []
    watched = Connection(Overtaken(connection.raw, lambda: calls.append("define")), URI)
    assert not register.define(watched, plan())
    assert calls == []


def test_a_lost_file_or_an_edited_definition_is_made_good(connection: Connection) -> None:
    register.define(connection, plan())
    (domain,) = register.registered(connection, "web01", UUID)
    Path(domain.files[0]).write_bytes(b"other")
    assert register.define(connection, plan())
    assert Path(domain.files[0]).read_bytes() == b"seed"
    text = connection.lookup("web01").XMLDesc(2)
    connection.raw.defineXML(text.replace("/dev/vg1/web01-1", "/dev/vg1/web01-0"))
    assert register.define(connection, plan())
    assert paths(connection) == ("/dev/vg1/web01-1",)


def test_an_overlay_that_somebody_made_counts_as_a_disk(connection: Connection) -> None:
    """The guest wrote to it and not to our volume, which therefore equals its point: only the path tells."""
    register.define(connection, plan())
    text = connection.lookup("web01").XMLDesc(2 | 1)
    overlaid = text.replace("<disk type='block' device='disk'>", "<disk type='file' device='disk'>", 1)
    overlaid = overlaid.replace("dev='/dev/vg1/web01-1'", "file='/srv/web01.test'").replace("raw", "qcow2", 1)
    connection.raw.defineXML(overlaid)
    assert paths(connection) == ("/srv/web01.test",)
    (difference,) = register.differences(connection, plan())
    assert difference == "disk vda is on /srv/web01.test instead of /dev/vg1/web01-1"


def test_the_next_point_replaces_and_autostart_goes_off(connection: Connection) -> None:
    register.define(connection, plan(1))
    connection.lookup("web01").setAutostart(1)
    assert register.define(connection, plan(2))
    assert paths(connection) == ("/dev/vg1/web01-2",)
    assert not connection.lookup("web01").autostart()


def test_a_domain_renamed_at_the_source_is_renamed_here(connection: Connection) -> None:
    register.define(connection, plan(1))
    assert register.define(connection, plan(2, name="www"))
    assert [domain.name for domain in register.registered(connection, "www", UUID)] == ["www"]
    with pytest.raises(NotFoundError):
        connection.lookup("web01")


class Unrenamable:
    """A virConnect whose domains libvirt does not rename, as it does not those with snapshots."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def lookupByUUIDString(self, uuid: str) -> Any:
        return Unrenamable(self._inner.lookupByUUIDString(uuid))

    def rename(self, name: str, flags: int) -> None:
        raise libvirt_module().libvirtError("domain with snapshots")


def test_a_domain_that_cannot_be_renamed_is_said_to_be_so(connection: Connection) -> None:
    register.define(connection, plan(1))
    with pytest.raises(GuestError, match="cannot rename domain web01 to www"):
        register.define(Connection(Unrenamable(connection.raw), URI), plan(2, name="www"))
    assert paths(connection) == ("/dev/vg1/web01-1",)


def test_a_tpm_gets_the_state_of_each_point(connection: Connection, tmp_path: Path) -> None:
    for sequence, state in ((1, b"one"), (2, b"two")):
        switched = tpm_plan(sequence, state)
        assert register.define(connection, switched)
        assert switched.tpm is not None
        assert Path(switched.tpm.place).read_bytes() == state
        assert not register.define(connection, switched)
    assert switched.tpm is not None
    Path(switched.tpm.place).write_bytes(b"lost")
    assert register.differences(connection, switched) == ("its TPM state is missing or is another point's",)
    assert register.define(connection, switched)
    assert Path(switched.tpm.place).read_bytes() == b"two"
    (gone,) = register.remove_files(connection, UUID)
    assert gone.endswith("thinsync-10000000")
    assert register.differences(connection, switched) == ()


def test_a_tpm_that_lost_its_state_at_the_source_has_none_at_the_target(connection: Connection) -> None:
    """An older point's keys do not belong to these disks. What an earlier version left there is found too."""
    assert register.define(connection, tpm_plan(1, b"one"))
    reset = tpm_plan(2, None)
    assert reset.tpm is not None
    place = Path(reset.tpm.place)
    assert register.define(connection, reset)
    assert not place.exists()
    assert not register.define(connection, reset)
    place.write_bytes(b"one")
    assert register.differences(connection, reset) == ("its TPM state is missing or is another point's",)
    assert register.define(connection, reset)
    assert not place.exists()
    assert register.define(connection, tpm_plan(3, b"three"))
    assert place.read_bytes() == b"three"


@pytest.mark.parametrize("step", ["TPM state written", "TPM held", "defined, not synced", "TPM in place"])
def test_a_tpm_after_a_crash_has_the_state_of_what_is_defined(
    connection: Connection, tmp_path: Path, step: str
) -> None:
    class KilledError(Exception):
        pass

    def reached(name: str) -> None:
        if name == step:
            raise KilledError

    register.define(connection, tpm_plan(1, b"one"))
    new = tpm_plan(2, b"two")
    assert new.tpm is not None
    with pytest.raises(KilledError):
        register.define(connection, new, reached)
    keep_definition(connection, tmp_path)
    register.finish_tpm(UUID)
    wanted = b"one" if paths(connection) == ("/dev/vg1/web01-1",) else b"two"
    assert Path(new.tpm.place).read_bytes() == wanted
    assert not register.finish_tpm(UUID)


def test_a_start_that_was_overtaken_keeps_its_keys(connection: Connection, tmp_path: Path) -> None:
    register.define(connection, tpm_plan(1, b"one"))
    keep_definition(connection, tmp_path)
    starts = [connection.lookup("web01").create]

    def start_once() -> None:
        if starts:
            starts.pop()()

    new = tpm_plan(2, b"two")
    assert new.tpm is not None
    with pytest.raises(ConflictError, match="started during the switch"):
        register.define(Connection(Overtaken(connection.raw, start_once), URI), new)
    assert Path(new.tpm.place).read_bytes() == b"one"


def test_a_running_replica_is_never_replaced(connection: Connection) -> None:
    register.define(connection, plan(1))
    connection.lookup("web01").create()
    with pytest.raises(ConflictError, match="running"):
        register.define(connection, plan(2))
    assert paths(connection) == ("/dev/vg1/web01-1",)


def test_a_managed_save_image_is_refused_with_the_remedy(connection: Connection) -> None:
    register.define(connection, plan(1))
    domain = connection.lookup("web01")
    domain.create()
    domain.managedSave(0)
    (registered,) = register.registered(connection, "web01", UUID)
    assert registered.managed_save
    with pytest.raises(ConflictError) as caught:
        register.define(connection, plan(2))
    assert "virsh managedsave-remove web01" in caught.value.hint


@pytest.mark.parametrize(
    "uuid", ["6f3a1c52-8d0e-4b7a-9c11-2a5d3e4f6071", "99999999-8d0e-4b7a-9c11-2a5d3e4f6071"]
)
def test_somebody_elses_domain_is_left_alone(connection: Connection, uuid: str) -> None:
    text = XML.format(name="web01").replace("6f3a1c52-8d0e-4b7a-9c11-2a5d3e4f6071", uuid)
    connection.raw.defineXML(text)
    with pytest.raises(ConflictError) as caught:
        register.define(connection, plan())
    assert caught.value.hint
    (domain,) = register.registered(connection, "web01", UUID)
    assert domain.mark is None
    assert dict(domain.paths) == {"vda": "/dev/vg0/web01"}


def test_name_and_uuid_of_two_different_domains(connection: Connection) -> None:
    connection.raw.defineXML(XML.format(name="other"))
    connection.raw.defineXML(XML.format(name="web01").replace("6f3a1c52", "99999999"))
    found = register.registered(connection, "web01", UUID)
    assert {domain.name for domain in found} == {"other", "web01"}


def test_another_replica_of_the_same_domain_is_a_conflict(connection: Connection) -> None:
    register.define(connection, plan())
    elsewhere = replace(plan(2), mark=Mark(ReplicaKey(UUID, "bbbbbb" + TARGET_VG[6:]), POINT, 2))
    with pytest.raises(ConflictError, match="not a replica of this"):
        register.define(connection, elsewhere)


def test_a_start_that_was_overtaken_keeps_its_point(connection: Connection) -> None:
    register.define(connection, plan(1))
    before = connection.lookup("web01").XMLDesc(2 | 1)
    starts = [connection.lookup("web01").create]

    def start_once() -> None:
        if starts:
            starts.pop()()

    with pytest.raises(ConflictError, match="started during the switch"):
        register.define(Connection(Overtaken(connection.raw, start_once), URI), plan(2))
    (domain,) = register.registered(connection, "web01", UUID)
    assert domain.active
    assert dict(domain.paths) == dict(domain.live_paths) == {"vda": "/dev/vg1/web01-1"}
    assert domain.mark is not None
    assert domain.mark.sequence == 1
    connection.lookup("web01").destroy()
    assert parse(connection.lookup("web01").XMLDesc(2 | 1), "it").findtext("uuid") == parse(
        before, "it"
    ).findtext("uuid")
    assert not register.define(connection, plan(1)), "just what was registered before"


def test_recovery_after_a_crash_beside_a_start(connection: Connection) -> None:
    register.define(connection, plan(1))
    assert not register.restore_active(connection, "web01"), "nothing runs"
    connection.lookup("web01").create()
    assert not register.restore_active(connection, "web01"), "it runs what is registered"
    connection.raw.defineXML(plan(2).xml)  # what a switch had done when it was killed
    assert register.restore_active(connection, "web01")
    (domain,) = register.registered(connection, "web01", UUID)
    assert dict(domain.paths) == dict(domain.live_paths) == {"vda": "/dev/vg1/web01-1"}
    assert domain.mark is not None
    assert domain.mark.sequence == 1
    assert "s3cret" in connection.lookup("web01").XMLDesc(2 | 1)
    assert not register.restore_active(connection, "web01")


def test_recovery_leaves_a_running_domain_of_others_alone(connection: Connection) -> None:
    domain = connection.raw.defineXML(XML.format(name="web01"))
    domain.create()
    connection.raw.defineXML(XML.format(name="web01").replace("/dev/vg0/web01", "/dev/vg0/new"))
    assert not register.restore_active(connection, "web01")


def test_only_replicas_are_marked(connection: Connection) -> None:
    connection.raw.defineXML(XML.format(name="other").replace("6f3a1c52", "99999999"))
    register.define(connection, plan(3))
    assert [(domain.name, domain.mark.sequence) for domain in register.marked(connection) if domain.mark] == [
        ("web01", 3)
    ]


def test_a_mark_that_is_not_understood_stops_only_its_own_domain(connection: Connection) -> None:
    register.define(connection, plan(3))
    text = connection.lookup("web01").XMLDesc(2).replace("replica/1", "replica/2")
    connection.raw.defineXML(text.replace(">web01<", ">newer<").replace("6f3a1c52-8d0e", "99999999-8d0e"))
    found = {domain.name: domain for domain in register.marked(connection)}
    assert set(found) == {"web01", "newer"}
    assert found["newer"].mark is None
    assert found["newer"].paths
    assert not register.restore_active(connection, "newer")
    with pytest.raises(ConflictError, match="newer"):
        register.registered(connection, "newer", "9" * 32)


def test_differences_from_a_plan_are_named(connection: Connection) -> None:
    assert register.differences(connection, plan(1)) == ("it is not registered here",)
    register.define(connection, plan(1))
    assert register.differences(connection, plan(1)) == ()
    (domain,) = register.registered(connection, "web01", UUID)
    Path(domain.files[0]).unlink()
    (file,) = register.differences(connection, plan(1))
    assert domain.files[0] in file
    named = " ".join(register.differences(connection, plan(2, name="www")))
    assert "/dev/vg1/web01-1 instead of /dev/vg1/web01-2" in named
    assert "web01" in named
    assert connection.lookup("web01"), "nothing was renamed"


def test_all_definitions_are_settled_the_directory_last(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(register, "sync_path", synced.append)
    for name in ("b.xml", "a.xml", "notes"):
        (tmp_path / name).write_bytes(b"")
    register.settle_all()
    assert synced == [str(tmp_path / "a.xml"), str(tmp_path / "b.xml"), str(tmp_path)]

    def fails(path: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(register, "sync_path", fails)
    with pytest.raises(ThinsyncError, match="Input/output error"):
        register.settle_all()


def test_old_files_go_and_only_ours(connection: Connection, tmp_path: Path) -> None:
    register.define(connection, plan(1, medium=b"one"))
    (old,) = register.registered(connection, "web01", UUID)[0].files
    register.define(connection, plan(2, medium=b"two"))
    (new,) = register.registered(connection, "web01", UUID)[0].files
    others = [
        tmp_path / "web01_VARS.fd",
        tmp_path / f"thinsync-x-{'9' * 32}-01234567_VARS.fd",
        tmp_path / f"thinsync-x-{UUID}-notours",
    ]
    half = Path(new + ".thinsync-new")
    for path in (*others, half):
        path.write_bytes(b"")
    assert register.remove_files(connection, UUID, keep=(old,)) == (str(half),)
    assert register.remove_files(connection, UUID) == (old,)
    assert register.remove_files(connection, UUID) == ()
    assert Path(new).exists()
    assert all(path.exists() for path in others)


def test_files_of_a_running_older_definition_stay(connection: Connection) -> None:
    register.define(connection, plan(1, medium=b"one"))
    (old,) = register.registered(connection, "web01", UUID)[0].files
    connection.lookup("web01").create()
    connection.raw.defineXML(plan(2, medium=b"two").xml)
    assert register.remove_files(connection, UUID) == ()
    assert Path(old).exists()


def test_the_driver_inspects_and_collects(connection: Connection) -> None:
    connection.raw.defineXML(XML.format(name="web01"))
    with LibvirtHypervisor(URI) as hypervisor:
        hypervisor.__dict__["_opened"] = connection
        assert hypervisor.domain_names() == ("web01",)
        domain = hypervisor.inspect("web01", lambda path: "is not here")
        assert domain.uuid == UUID
        assert next(disk.problem for disk in domain.disks) == "is not here"
        definition = hypervisor.collect_definition("web01", CHOSEN)
        assert hypervisor.collect_definition(UUID, CHOSEN).id == definition.id
        assert b"s3cret" in definition.parts["domain.xml"]
        assert hypervisor.nvram_path("web01") is None
        with pytest.raises(NotFoundError):
            hypervisor.inspect("nobody", lambda path: "")
        hypervisor.__dict__.pop("_opened")


def test_variables_behind_a_link_are_refused_before_the_freeze(
    connection: Connection, tmp_path: Path
) -> None:
    """The guard, who reads them in the freeze, follows none."""
    link = tmp_path / "web01_VARS.fd"
    link.symlink_to("/etc/hostname")
    text = XML.format(name="web01").replace(
        "</os>", f"<loader readonly='yes' type='pflash'>/usr/share/x.fd</loader><nvram>{link}</nvram></os>"
    )
    assert str(link) in text
    connection.raw.defineXML(text)
    with LibvirtHypervisor(URI) as hypervisor:
        hypervisor.__dict__["_opened"] = connection
        with pytest.raises(NotReplicableError, match="symbolic link"):
            hypervisor.collect_definition("web01", CHOSEN)
        hypervisor.__dict__.pop("_opened")

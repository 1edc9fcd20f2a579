"""A TPM's state: where it is, what is refused, and that a start never gets another point's."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.hypervisor.samples import FACTS, POINT, definition_of, found, mark_for, plan_for, with_files
from thinsync_virt.errors import NotReplicableError, StreamError, ThinsyncError
from thinsync_virt.hypervisor import tpm, tpm_state
from thinsync_virt.hypervisor.capabilities import parse_support
from thinsync_virt.hypervisor.definition import collect
from thinsync_virt.hypervisor.driver import _read_tpm
from thinsync_virt.hypervisor.facts import HostFacts
from thinsync_virt.hypervisor.markup import Element, parse
from thinsync_virt.hypervisor.replica.draft import TpmState
from thinsync_virt.hypervisor.unreplicable import host_bound_state
from thinsync_virt.model.definition import MAX_TPM
from thinsync_virt.model.findings import Severity
from thinsync_virt.model.names import VolumeName
from thinsync_virt.model.replicas import Choices

UUID = "6f3a1c52-8d0e-4b7a-9c11-2a5d3e4f6071"
DOMAIN = UUID.replace("-", "")
PART = "tpm/tpm2-00.permall"
OTHER = "fedcba98" + POINT[8:]
DISKS = {"vda": "/dev/vg1/web01"}
HERE = with_files(FACTS, file=list(tpm.TOOLS))
NEWER = replace(HERE, libvirt_version=tpm.NAMED_SINCE)


def text(backend: str = "<backend type='emulator' version='2.0'/>", model: str = "tpm-tis") -> str:
    return f"""<domain type='qemu'><name>web01</name><uuid>{UUID}</uuid><memory unit='KiB'>65536</memory>
      <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>
      <devices>
        <disk type='block' device='disk'><driver name='qemu' type='raw'/>
          <source dev='/dev/vg0/web01'/><target dev='vda' bus='virtio'/></disk>
        <tpm model='{model}'>{backend}</tpm>
      </devices></domain>"""


def root(backend: str = "<backend type='emulator' version='2.0'/>") -> Element:
    return parse(text(backend), "the sample")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tpm, "TPM_DIRECTORY", str(tmp_path))
    return tmp_path


# What travels


def test_where_libvirt_keeps_it(directory: Path) -> None:
    assert tpm.state_path(root()) == f"{directory}/{UUID}/tpm2/tpm2-00.permall"
    assert tpm.state_path(root("<backend type='emulator' version='1.2'/>")) == (
        f"{directory}/{UUID}/tpm1.2/tpm-00.permall"
    )
    named = "<backend type='emulator' version='2.0'><source type='dir' path='/srv/tpm'/></backend>"
    assert tpm.state_path(root(named)) == "/srv/tpm/tpm2-00.permall"
    assert tpm.state_path(parse("<domain><devices/></domain>", "it")) is None


@pytest.mark.parametrize(
    ("backend", "word"),
    [
        ("<backend type='passthrough'><device path='/dev/tpm0'/></backend>", "passthrough"),
        ("<backend type='external'><source type='unix' path='/run/x'/></backend>", "external"),
        ("<backend type='emulator' version='3.0'/>", "3.0"),
        ("<backend type='emulator' version='2.0'><source type='file' path='/x'/></backend>", "file"),
        ("", "no backend"),
    ],
)
def test_what_cannot_travel_is_refused_with_a_remedy(backend: str, word: str) -> None:
    (problem,) = host_bound_state(root(backend))
    assert "TPM" in problem
    assert word in problem
    assert tpm.state_path(root(backend)) is None
    plan, _ = plan_for(text(backend), DISKS, facts=HERE)
    assert any(word in finding.message for finding in plan.findings if finding.severity is Severity.REFUSAL)


def collected(state: bytes | None) -> dict[str, bytes]:
    chosen = Choices(VolumeName("vg1", "pool"))
    return dict(collect(root(), chosen, None, lambda pool, volume: "", tpm=state).parts)


def test_it_is_a_part_of_the_definition() -> None:
    assert collected(b"keys")[PART] == b"keys"
    assert PART not in collected(None)


@pytest.mark.parametrize("state", [b"", bytes(MAX_TPM + 1)])
def test_what_is_no_state_is_refused_at_the_source(state: bytes) -> None:
    with pytest.raises(NotReplicableError, match="TPM"):
        collected(state)


def test_a_running_guest_without_state_is_refused(directory: Path) -> None:
    assert _read_tpm(root(), running=False) is None
    with pytest.raises(NotReplicableError, match="is not at"):
        _read_tpm(root(), running=True)
    place = Path(tpm.fixed_path(root()))
    place.parent.mkdir(parents=True)
    place.write_bytes(b"keys")
    assert _read_tpm(root(), running=True) == b"keys"
    place.write_bytes(bytes(MAX_TPM + 1))
    with pytest.raises(NotReplicableError, match="too large"):
        _read_tpm(root(), running=True)


# The replica


def planned(
    facts: HostFacts, state: bytes | None = b"keys", point: str = POINT
) -> tuple[TpmState | None, str]:
    parts = {} if state is None else {PART: state}
    plan, _ = plan_for(text(), DISKS, facts=facts, parts=parts, point=point)
    return plan.tpm, plan.xml


def test_the_definition_names_the_directory_where_libvirt_can(directory: Path) -> None:
    state, xml = planned(NEWER)
    home = f"{directory}/{UUID}/tpm2/thinsync-{POINT[:8]}"
    assert state == TpmState(f"{home}/tpm2-00.permall", "", b"keys")
    assert f'<source type="dir" path="{home}"/>' in xml


def test_else_the_place_is_fixed(directory: Path) -> None:
    state, xml = planned(HERE)
    assert state is not None
    assert state.place == f"{directory}/{UUID}/tpm2/tpm2-00.permall"
    assert 'type="dir"' not in xml


def test_a_source_of_the_other_host_is_never_kept() -> None:
    named = "<backend type='emulator' version='2.0'><source type='dir' path='/srv/tpm'/></backend>"
    for facts in (HERE, NEWER):
        plan, _ = plan_for(text(named), DISKS, facts=facts, parts={PART: b"keys"})
        assert "/srv/tpm" not in plan.xml


def test_a_tpm_that_was_never_started_has_no_state() -> None:
    plan, _ = plan_for(text(), DISKS, facts=NEWER)
    assert plan.tpm is None, "its directory is its point's alone"
    plan, _ = plan_for(text(), DISKS, facts=HERE)
    assert plan.tpm is not None and plan.tpm.data == b"" and plan.tpm.place
    assert "no state yet" in found(plan, Severity.INFO)["TPM"].message


@pytest.mark.parametrize("state", [b"", bytes(MAX_TPM + 1)])
def test_what_is_no_state_is_refused_at_the_target(state: bytes) -> None:
    plan, _ = plan_for(text(), DISKS, facts=HERE, parts={PART: state})
    assert "bytes" in found(plan, Severity.REFUSAL)["TPM"].message
    assert plan.tpm is None


def test_a_host_without_emulator_model_or_secret_is_refused() -> None:
    plan, _ = plan_for(text(), DISKS, facts=FACTS)
    refusal = found(plan, Severity.REFUSAL)["TPM"]
    assert "swtpm_setup" in refusal.message
    assert "apt install" in refusal.hint
    only_crb = replace(HERE, support=replace(HERE.support, tpm_models=frozenset({"tpm-crb"})))
    plan, _ = plan_for(text(), DISKS, facts=only_crb)
    assert "tpm-tis" in found(plan, Severity.REFUSAL)["TPM"].message
    none = replace(HERE, support=replace(HERE.support, tpm_backends=frozenset({"passthrough"})))
    plan, _ = plan_for(text(), DISKS, facts=none)
    assert "no TPM emulator" in found(plan, Severity.REFUSAL)["TPM"].message
    sealed = text(f"<backend type='emulator' version='2.0'><encryption secret='{UUID}'/></backend>")
    plan, _ = plan_for(sealed, DISKS, facts=HERE)
    assert "virsh secret-define" in found(plan, Severity.REFUSAL)["TPM"].hint
    plan, _ = plan_for(sealed, DISKS, facts=replace(HERE, secrets=frozenset({UUID})))
    assert "TPM" not in found(plan, Severity.REFUSAL)


def test_what_libvirt_says_of_tpms() -> None:
    support = parse_support(
        parse(
            "<domainCapabilities><devices><tpm supported='yes'><enum name='model'><value>tpm-tis</value></enum>"
            "<enum name='backendModel'><value>emulator</value></enum></tpm></devices></domainCapabilities>",
            "it",
        )
    )
    assert (support.tpm_models, support.tpm_backends) == (frozenset({"tpm-tis"}), frozenset({"emulator"}))


# The files of the target


class StoppedError(Exception):
    """The process was killed at a step."""


def stopping(wanted: str) -> Callable[[str], None]:
    def reached(step: str) -> None:
        if step == wanted:
            raise StoppedError(step)

    return reached


def quiet(step: str) -> None:
    """Nobody listens."""


def switch(state: TpmState, definitions: Path, xml: str, at: str = "") -> None:
    """What ``register.define`` does with a definition and its TPM's state."""
    reached = stopping(at)
    tpm_state.prepare(state, True, reached)
    (definitions / "web01.xml").write_text(xml)
    reached("defined")
    tpm_state.put_in_place(state, reached)


@pytest.mark.parametrize("facts", [HERE, NEWER], ids=["fixed", "named"])
@pytest.mark.parametrize("at", ["TPM state written", "TPM held", "defined", "TPM in place", ""])
def test_a_start_after_a_crash_gets_the_state_of_its_definition(
    tmp_path: Path, facts: HostFacts, at: str
) -> None:
    definitions = tmp_path / "definitions"
    definitions.mkdir()
    first, first_xml = planned(facts, b"first", OTHER)
    other, other_xml = planned(facts, b"other")
    assert first is not None
    assert other is not None
    switch(first, definitions, first_xml)
    assert tpm_state.in_place(first)
    try:
        switch(other, definitions, other_xml, at)
    except StoppedError:
        for _, domain, definition in tpm_state.held(str(definitions)):
            assert domain == DOMAIN
            place = Path(tpm.fixed_path(definition))
            assert place.read_bytes() == tpm_state.HELD, "a start fails before recovery, and mixes nothing"
            assert tpm_state.finish(definition)
    defined = (definitions / "web01.xml").read_text()
    assert tpm_state.in_place(other if defined == other_xml else first)
    assert list(tpm_state.held(str(definitions))) == []
    switch(other, definitions, other_xml)
    assert tpm_state.in_place(other)


@pytest.mark.parametrize("at", ["TPM state written", "TPM held", "defined", "TPM in place", ""])
@pytest.mark.parametrize(("before", "after"), [(b"keys", None), (None, b"keys"), (None, None)])
def test_a_tpm_without_state_starts_with_no_other_points_keys(
    tmp_path: Path, before: bytes | None, after: bytes | None, at: str
) -> None:
    """It was reset at the source: older keys at the fixed place do not belong to the disks of the newer point."""
    definitions = tmp_path / "definitions"
    definitions.mkdir()
    first, first_xml = planned(HERE, before, OTHER)
    other, other_xml = planned(HERE, after)
    assert first is not None and other is not None
    place = Path(other.place)

    def found() -> bytes | None:
        return place.read_bytes() if place.exists() else None

    switch(first, definitions, first_xml)
    assert found() == before
    try:
        switch(other, definitions, other_xml, at)
    except StoppedError:
        for _, _, definition in tpm_state.held(str(definitions)):
            assert tpm_state.finish(definition)
    defined = (definitions / "web01.xml").read_text()
    assert found() == (after if defined == other_xml else before)
    assert list(tpm_state.held(str(definitions))) == []
    switch(other, definitions, other_xml)
    assert found() == after and tpm_state.in_place(other)


def test_what_stood_there_before_the_replica_is_kept_where_that_has_no_state(tmp_path: Path) -> None:
    state, _ = planned(HERE, None)
    assert state is not None
    place = Path(state.place)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"of a domain before")
    tpm_state.prepare(state, False, quiet)
    tpm_state.put_in_place(state, quiet)
    assert not place.exists()
    assert Path(f"{place}.before-thinsync").read_bytes() == b"of a domain before"


def test_what_a_guest_has_written_meanwhile_is_left_alone(tmp_path: Path) -> None:
    state, xml = planned(HERE)
    assert state is not None
    tpm_state.prepare(state, True, quiet)
    Path(state.place).write_bytes(b"written by a guest")
    tpm_state.put_in_place(state, quiet)
    assert not tpm_state.finish(parse(xml, "it"))
    assert Path(state.place).read_bytes() == b"written by a guest"


def test_a_state_that_undefine_has_kept_is_kept(tmp_path: Path) -> None:
    state, _ = planned(HERE)
    assert state is not None
    place = Path(state.place)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"of a domain before")
    tpm_state.prepare(state, False, quiet)
    assert Path(f"{place}.before-thinsync").read_bytes() == b"of a domain before"


def test_a_hold_without_its_state_is_said(tmp_path: Path) -> None:
    state, xml = planned(HERE)
    assert state is not None
    tpm_state.prepare(state, True, quiet)
    Path(state.path).unlink()
    with pytest.raises(ThinsyncError, match="cannot start") as caught:
        tpm_state.finish(parse(xml, "it"))
    assert "replicate" in caught.value.hint


def test_only_replicas_are_looked_at(tmp_path: Path) -> None:
    place = Path(tpm.fixed_path(root()))
    place.parent.mkdir(parents=True)
    place.write_bytes(tpm_state.HELD)
    definitions = tmp_path / "definitions"
    definitions.mkdir()
    (definitions / "web01.xml").write_text(text())
    (definitions / "broken.xml").write_text("<domain")
    assert list(tpm_state.held(str(definitions))) == []
    assert not tpm_state.finish(root())


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    state, _ = planned(HERE)
    assert state is not None
    before = os.umask(0o077)
    try:
        tpm_state.prepare(state, True, quiet)
    finally:
        os.umask(before)
    file = Path(state.path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for parent in (file.parent, file.parent.parent, file.parent.parent.parent):
        assert stat.S_IMODE(parent.stat().st_mode) == 0o711


def test_the_owner_is_libvirts_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "qemu.conf"
    monkeypatch.setattr(tpm_state, "_QEMU_CONF", str(conf))
    conf.write_text('#swtpm_user = "nobody"\nswtpm_user = "daemon"\n')
    assert tpm_state._owner()[0] == 1
    conf.write_text('swtpm_user = "no-such-user"\n')
    monkeypatch.setattr(tpm_state, "_USERS", ("no-such-user-either",))
    assert tpm_state._owner() == (os.getuid(), os.getgid())


def test_a_directory_that_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path) -> None:
    state, _ = planned(HERE)
    assert state is not None
    (tmp_path / UUID).write_bytes(b"in the way")
    with pytest.raises(ThinsyncError) as caught:
        tpm_state.prepare(state, True, quiet)
    assert caught.value.hint


def test_states_of_points_that_went_are_removed(tmp_path: Path) -> None:
    first, _ = planned(HERE, b"first", OTHER)
    other, _ = planned(HERE, b"other")
    assert first is not None
    assert other is not None
    for state in (first, other):
        tpm_state.prepare(state, True, quiet)
    theirs = Path(first.place).parent / "thinsync-notours"
    theirs.mkdir()
    assert tpm_state.remove_old(DOMAIN, {POINT[:8]}) == [os.path.dirname(first.path)]
    assert Path(other.path).exists()
    assert theirs.exists()
    assert Path(other.place).exists()


def test_a_point_has_a_place_of_its_own() -> None:
    paths = {tpm.point_path(root(), mark_for(text(), point)) for point in (POINT, OTHER)}
    assert len(paths) == 2
    assert definition_of(text(), parts={PART: b"a"}).id != definition_of(text(), parts={PART: b"b"}).id


def test_a_hostile_part_name_is_no_path() -> None:
    with pytest.raises(StreamError):
        definition_of(text(), parts={"tpm/../x": b""})

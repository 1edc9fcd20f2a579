"""Which disks of a domain can be replicated, and what is said of the others."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest

from tests.unit.hypervisor.samples import root_of, volume
from thinsync_virt.errors import NotReplicableError
from thinsync_virt.hypervisor.inspect import Observation, describe
from thinsync_virt.hypervisor.markup import Element, parse, remove
from thinsync_virt.model.domains import CacheMode, Disk, Domain, DomainState
from thinsync_virt.model.replicas import Choices
from thinsync_virt.model.volumes import ThinVolume
from thinsync_virt.planning.choices import travelling_disks

RUNNING, PAUSED, OFF = 1, 3, 5
THIN = {f"/dev/vg0/{name}": volume(name) for name in ("web01-root", "web01-data", "zoo", "win01")}


def find_volume(path: str) -> ThinVolume | str:
    return THIN.get(path, f"is not a thin volume ({path})")


def find_path(pool: str, name: str) -> str:
    return f"/dev/{pool}/{name}" if pool == "vg0" else ""


def look(live: Element | None, persistent: Element | None, state: int = RUNNING, **others: object) -> Domain:
    seen = Observation(state, 0, live, persistent)
    return describe(replace(seen, **others), find_volume, find_path)  # type: ignore[arg-type]


def disk(domain: Domain, target: str) -> Disk:
    return next(disk for disk in domain.disks if disk.target == target)


def with_disk(text: str) -> Domain:
    root = root_of("bios")
    old = root.find("devices/disk")
    assert old is not None
    old.addprevious(parse(text, "disk"))
    remove(old)
    return look(root, deepcopy(root))


def test_a_plain_guest() -> None:
    domain = look(root_of("bios"), root_of("bios"))
    assert (domain.name, domain.uuid) == ("web01", "6f3a1c528d0e4b7a9c112a5d3e4f6071")
    assert domain.state is DomainState.RUNNING
    assert domain.has_agent
    assert domain.persistent
    assert domain.problems == ()
    assert [(d.target, d.cache, d.volume) for d in domain.disks if not d.removable] == [
        ("vda", CacheMode.NONE, THIN["/dev/vg0/web01-root"]),
        ("vdb", CacheMode.WRITEBACK, THIN["/dev/vg0/web01-data"]),
    ]
    assert disk(domain, "vdb").source == "/dev/vg0/web01-data"
    assert [d.target for d in domain.disks if d.removable] == ["sda", "sdb", "sdc"]
    assert all(bool(d.problem) == (d.volume is None) for d in domain.disks)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/a.qcow2'/>"
            "<target dev='vda'/></disk>",
            "image file",
            "thin volume",
        ),
        (
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/dev/vg0/web01-root'/>"
            "<target dev='vda'/></disk>",
            "names a device as if it were a file",
            "<source dev='/dev/vg0/web01-root'/>",
        ),
        (
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/a.snap1'/>"
            "<backingStore type='block'><format type='raw'/><source dev='/dev/vg0/web01-root'/></backingStore>"
            "<target dev='vda'/></disk>",
            "overlay",
            "virsh blockcommit web01 vda --active --pivot",
        ),
        (
            "<disk type='block' device='disk'><driver name='qemu' type='qcow2'/><source dev='/dev/vg0/web01-root'/>"
            "<target dev='vda'/></disk>",
            "qcow2 image",
            "raw",
        ),
        (
            "<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/vg0/web01-root'/>"
            "<mirror type='file' job='copy'><source file='/x'/></mirror><target dev='vda'/></disk>",
            "block copy job",
            "virsh blockjob web01 vda --abort",
        ),
        (
            "<disk type='block' device='disk'><source dev='/dev/vg0/web01-root'/><target dev='vda'/>"
            "<shareable/></disk>",
            "shareable",
            "exclude",
        ),
        (
            "<disk type='block' device='disk'><source dev='/dev/vg0/web01-root'/><target dev='vda'/>"
            "<transient/></disk>",
            "transient",
            "exclude",
        ),
        (
            "<disk type='block' device='lun'><source dev='/dev/sdc'/><target dev='sda'/></disk>",
            "passed through",
            "exclude",
        ),
        (
            "<disk type='network' device='disk'><source protocol='rbd' name='p/i'/><target dev='vda'/></disk>",
            "network disk",
            "",
        ),
        ("<disk type='nvme' device='disk'><source type='pci'/><target dev='vda'/></disk>", "NVMe", ""),
        (
            "<disk type='vhostuser' device='disk'><source type='unix'/><target dev='vda'/></disk>",
            "vhost-user",
            "",
        ),
        ("<disk type='vhostvdpa' device='disk'><source dev='/dev/v'/><target dev='vda'/></disk>", "vdpa", ""),
        ("<disk type='brand-new' device='disk'><target dev='vda'/></disk>", "'brand-new'", ""),
        (
            "<disk type='block' device='disk'><source dev='/dev/sdc'/><target dev='vda'/></disk>",
            "not a thin",
            "",
        ),
        (
            "<disk type='block' device='disk'><source dev='/dev/vg0/x'/><target dev='../x'/></disk>",
            "target name",
            "",
        ),
        (
            "<disk type='volume' device='disk'><source pool='gone' volume='x'/><target dev='vda'/></disk>",
            "storage pool gone",
            "pool-start",
        ),
        ("<disk type='block' device='disk'><target dev='vda'/></disk>", "no source", ""),
    ],
)
def test_disks_that_cannot_be_replicated_say_why(text: str, message: str, hint: str) -> None:
    first = with_disk(text).disks[0]
    assert first.volume is None
    assert message in first.problem
    assert hint in first.hint


def test_read_only_disks_are_replicated() -> None:
    domain = with_disk(
        "<disk type='block' device='disk'><source dev='/dev/vg0/web01-root'/><target dev='vda'/><readonly/></disk>"
    )
    assert domain.disks[0].volume is not None


def test_two_disks_on_one_volume_are_both_refused() -> None:
    domain = with_disk(
        "<disk type='block' device='disk'><source dev='/dev/vg0/web01-data'/><target dev='vda'/></disk>"
    )
    assert disk(domain, "vda").volume is None
    assert disk(domain, "vdb").volume is None
    assert "same volume" in disk(domain, "vdb").problem


def test_a_block_job_is_named() -> None:
    domain = look(root_of("bios"), root_of("bios"), block_jobs={"vdb": "pull"})
    assert "pull" in disk(domain, "vdb").problem
    assert disk(domain, "vda").volume is not None


@pytest.mark.parametrize(
    ("state", "reason", "expected", "problem"),
    [
        (RUNNING, 0, DomainState.RUNNING, ""),
        (2, 0, DomainState.RUNNING, ""),
        (PAUSED, 1, DomainState.PAUSED, ""),
        (PAUSED, 5, DomainState.PAUSED, ""),
        (PAUSED, 2, DomainState.PAUSED, "migrated"),
        (PAUSED, 13, DomainState.PAUSED, "post-copy"),
        (4, 1, DomainState.RUNNING, "shut down"),
        (6, 0, DomainState.PAUSED, "virsh destroy web01"),
        (7, 0, DomainState.PAUSED, "virsh dompmwakeup web01"),
    ],
)
def test_states(state: int, reason: int, expected: DomainState, problem: str) -> None:
    domain = look(root_of("bios"), root_of("bios"), state, reason=reason)
    assert domain.state is expected
    assert (problem in domain.problems[0]) if problem else domain.problems == ()


def test_a_guest_that_is_off() -> None:
    domain = look(None, root_of("bios"), OFF)
    assert domain.state is DomainState.OFF
    assert disk(domain, "vda").volume is not None


def test_a_managed_save_image_is_refused_with_the_remedy() -> None:
    domain = look(None, root_of("bios"), OFF, managed_save=True)
    assert domain.managed_save
    assert "virsh managedsave-remove web01" in domain.problems[0]


def test_a_transient_domain_is_refused_with_the_remedy() -> None:
    domain = look(root_of("bios"), None)
    assert not domain.persistent
    assert "virsh define" in domain.problems[0]


def test_a_job_on_the_whole_domain() -> None:
    assert "migration" in look(root_of("bios"), root_of("bios"), job="migration").problems[0]


def test_disks_that_only_one_definition_has() -> None:
    """Such a disk can be left out as any other: then it is not looked at."""
    short = root_of("bios")
    remove(short.findall("devices/disk")[1])
    for live, persistent, word in ((root_of("bios"), short, "--live"), (short, root_of("bios"), "--config")):
        found = look(live, persistent)
        assert found.problems == ()
        assert f"virsh detach-disk web01 vdb {word}" in disk(found, "vdb").hint
        with pytest.raises(NotReplicableError, match=r"disk vdb .* only"):
            travelling_disks(found, Choices(None))
        (left,) = travelling_disks(found, Choices(None, excluded=("vdb",)))
        assert left.target == "vda"


def test_a_disk_that_moved_is_refused() -> None:
    moved = root_of("bios")
    source = moved.find("devices/disk/source")
    assert source is not None
    source.set("dev", "/dev/vg0/other")
    found = look(root_of("bios"), moved)
    assert found.problems == ()
    assert "/dev/vg0/other at the next start" in disk(found, "vda").problem
    assert disk(found, "vda").volume is None and disk(found, "vdb").volume is not None


def test_an_ejected_medium_is_no_difference() -> None:
    ejected = root_of("bios")
    for source in ejected.findall("devices/disk[@device='cdrom']/source"):
        remove(source)
    assert look(ejected, root_of("bios")).problems == ()


def test_state_outside_the_disks_is_refused() -> None:
    problems = look(None, root_of("everything"), OFF).problems
    assert any("TPM" in problem for problem in problems)
    assert any("nvdimm" in problem for problem in problems)


def test_blanks_are_a_part_of_a_name() -> None:
    """libvirt knows no domain by the name without them, and the guard takes it for renamed."""
    root = root_of("bios")
    name = root.find("name")
    assert name is not None
    name.text = " web 1 "
    assert look(root, deepcopy(root)).name == " web 1 "


def test_a_drive_whose_medium_was_ejected_is_empty() -> None:
    domain = with_disk(
        "<disk type='file' device='cdrom'><source startupPolicy='optional'/><target dev='sdx' bus='sata'/></disk>"
    )
    assert disk(domain, "sdx").source == ""
    assert "no medium" in disk(domain, "sdx").problem


def test_commands_that_are_advised_are_fit_to_be_pasted() -> None:
    root = root_of("bios")
    name = root.find("name")
    assert name is not None
    name.text = "web 01; reboot"
    (saved,) = look(root, deepcopy(root), managed_save=True).problems
    assert "virsh managedsave-remove 'web 01; reboot'" in saved
    (transient,) = look(root, None).problems
    assert "--security-info 'web 01; reboot' | virsh define /dev/stdin" in transient, "no secret in a file"
    jobs = {"vda": "copy"}
    assert (
        "virsh blockjob 'web 01; reboot' vda" in disk(look(root, deepcopy(root), block_jobs=jobs), "vda").hint
    )


def test_a_volume_without_a_path_says_which_pool_to_start() -> None:
    domain = with_disk(
        "<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='my pool' volume='a'/>"
        "<target dev='vdx'/></disk>"
    )
    assert "virsh pool-start 'my pool'" in disk(domain, "vdx").hint

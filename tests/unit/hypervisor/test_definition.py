"""What is collected at the source: equal facts give equal bytes."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.hypervisor.samples import CHOSEN, POINT, TARGET_VG, definition_of, root_of, text_of
from thinsync_virt.errors import BusyError, NotFoundError, NotReplicableError, StreamError
from thinsync_virt.hypervisor import files, gather
from thinsync_virt.hypervisor.definition import MAX_BOOT_FILES, boot_files, collect, domain_root, nvram_file
from thinsync_virt.hypervisor.files import (
    MAX_DIGESTED,
    digest_file,
    has_content,
    read_stable,
    remove_file,
    write_durable,
)
from thinsync_virt.hypervisor.mark import read_mark, write_mark
from thinsync_virt.hypervisor.markup import Element, parse
from thinsync_virt.model.definition import BOOT, CHOICES, DOMAIN_XML, MAX_PART, NVRAM, Definition
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.replicas import Choices, Mark


def find_path(pool: str, name: str) -> str:
    return f"/pools/{pool}/{name}"


def collected(name: str = "bios", nvram: bytes | None = None, **media: bytes) -> Definition:
    present = {"/var/lib/libvirt/images/web01-seed.iso": b"seed", **media}

    def read(path: str, limit: int) -> bytes | None:
        assert limit == MAX_PART
        if path not in present:
            raise NotFoundError(path)
        return present[path]

    return collect(root_of(name), CHOSEN, nvram, find_path, read)


def test_parts_of_a_guest_with_a_seed() -> None:
    definition = collected(nvram=b"vars")
    assert set(definition.parts) == {DOMAIN_XML, CHOICES, NVRAM, "media/sda"}
    assert definition.parts["media/sda"] == b"seed"
    assert Choices.from_json(definition.parts[CHOICES]) == CHOSEN
    assert domain_root(definition).findtext("name") == "web01"


@pytest.fixture
def asked() -> list[str]:
    """What was looked at in the directory of ``hung``."""
    return []


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> Iterator[str]:
    """A directory of a server that is away: who looks into it waits for ever."""
    directory, back = "/nfs-of-no-server/", threading.Event()
    for name in ("open", "stat"):
        there = getattr(os, name)

        def waits(path: Any, *rest: Any, there: Any = there, **more: Any) -> Any:
            if str(path).startswith(directory):
                asked.append(str(path))
                back.wait()
            return there(path, *rest, **more)

        monkeypatch.setattr(os, name, waits)
    monkeypatch.setattr(files, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(gather, "_STAT_SECONDS", 0.1)
    yield directory
    back.set()


def test_a_medium_whose_file_system_does_not_answer_holds_nothing_up(hung: str, asked: list[str]) -> None:
    """Installation media lie on NFS, at both hosts; when its server is gone, copies matter most."""
    root = root_of("bios")
    source = root.find("devices/disk[@device='cdrom']/source")
    assert source is not None
    source.set("file", hung + "install.iso")
    assert set(collect(root, CHOSEN, None, find_path).parts) == {DOMAIN_XML, CHOICES}
    assert asked.pop() == hung + "install.iso"
    assert hung + "install.iso" not in gather._files(root, set(), None)
    assert asked == [], "nobody asks the target for the source's media"


def test_a_share_whose_file_system_does_not_answer_is_not_there(hung: str) -> None:
    share = f"<domain><devices><filesystem><source dir='{hung}share'/></filesystem></devices></domain>"
    assert hung + "share" not in gather._files(parse(share, "it"), {hung + "kernel"}, None)


def test_a_boot_file_whose_file_system_does_not_answer_has_no_digest(hung: str) -> None:
    root = parse(f"<domain><os><kernel>{hung}vmlinuz</kernel></os></domain>", "it")
    (kernel,) = boot_files(collect(root, CHOSEN, None, find_path))
    assert (kernel.path, kernel.sha256) == (hung + "vmlinuz", "")


def test_what_stands_at_a_path_of_the_host(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    named = "".join(f"<source path='{tmp_path}/{name}'/>" for name in ("pipe", "file", "none"))
    found = gather._files(parse(f"<domain>{named}</domain>", "it"), set(), None)
    kinds = {path.removeprefix(f"{tmp_path}/"): fact.kind for path, fact in found.items()}
    assert (kinds["pipe"], kinds["file"], kinds[str(tmp_path)]) == ("fifo", "file", "directory")
    assert "none" not in kinds


def test_equal_facts_give_equal_ids() -> None:
    assert collected().id == collected().id
    assert collected().id != collected(nvram=b"vars").id


def test_our_mark_is_not_part_of_it() -> None:
    root = root_of("bios")
    write_mark(root, Mark(ReplicaKey("a" * 32, TARGET_VG), POINT, 3), "")
    definition = collect(root, CHOSEN, None, find_path, lambda path, limit: b"seed")
    assert read_mark(domain_root(definition)) is None
    assert definition.id == collected().id


def test_a_medium_in_a_storage_pool_is_found() -> None:
    root = root_of("bios")
    drive = root.find("devices/disk[@device='cdrom']")
    assert drive is not None
    drive.set("type", "volume")
    source = drive.find("source")
    assert source is not None
    source.attrib.clear()
    source.set("pool", "default")
    source.set("volume", "seed.iso")
    paths: list[str] = []

    def read(path: str, limit: int) -> bytes | None:
        paths.append(path)
        return None

    assert "media/sda" not in collect(root, CHOSEN, None, find_path, read).parts
    assert paths == ["/pools/default/seed.iso"]


def test_boot_files_are_digested(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    text = text_of("direct").replace("/boot/guest/vmlinuz", str(kernel))
    definition = collect(parse(text, "it"), CHOSEN, None, find_path)
    by_role = {file.role: file for file in boot_files(definition)}
    assert (by_role["kernel"].path, by_role["kernel"].size) == (str(kernel), 6)
    assert len(by_role["kernel"].sha256) == 64
    assert by_role["initrd"].sha256 == ""
    assert json.loads(definition.parts[BOOT])


def test_what_the_other_end_names_is_not_read_without_end(tmp_path: Path) -> None:
    large, link, late = tmp_path / "log", tmp_path / "vmlinuz", tmp_path / "initrd"
    with large.open("wb") as file:
        file.truncate(MAX_DIGESTED + 1)
    assert digest_file(str(large)) is None
    link.symlink_to("/proc/version")
    late.write_bytes(b"initrd")
    assert digest_file(str(link)) is None
    for path in ("/proc/version", "/proc/self/status", "/sys/kernel/uevent_seqnum", str(tmp_path), "a\0b"):
        assert digest_file(path) is None, path
    assert digest_file(str(late), 5) is None
    assert digest_file(str(late), 6) == (6, hashlib.sha256(b"initrd").hexdigest())


def test_so_many_boot_files_are_refused_at_both_ends() -> None:
    names = [f"<table type='raw'>/boot/t{number}</table>" for number in range(MAX_BOOT_FILES)]

    def with_tables(tables: list[str]) -> Element:
        return parse(text_of("bios").replace("</os>", f"<acpi>{''.join(tables)}</acpi></os>"), "it")

    definition = collect(with_tables(names), CHOSEN, None, find_path)
    assert len(boot_files(definition)) == MAX_BOOT_FILES
    with pytest.raises(NotReplicableError, match="65 files"):
        collect(with_tables([*names, names[0]]), CHOSEN, None, find_path)
    entries = json.loads(definition.parts[BOOT])
    more = json.dumps([*entries, entries[0]]).encode()
    with pytest.raises(StreamError, match="65 files"):
        boot_files(definition_of(text_of("bios"), parts={BOOT: more}))


def test_ignition_files_count_as_boot_files() -> None:
    definition = collect(root_of("everything"), CHOSEN, None, find_path, lambda path, limit: None)
    assert [file.role for file in boot_files(definition)] == ["fwcfg"]


@pytest.mark.parametrize(
    "data",
    [b"{", b"[" * 200_000, b"[{}]", b"[1]", b'[{"role":"kernel","path":"/x","size":"q","sha256":""}]'],
    ids=["cut", "deep", "empty", "number", "size"],
)
def test_damaged_digests_are_refused(data: bytes) -> None:
    with pytest.raises(StreamError):
        boot_files(definition_of(text_of("bios"), parts={BOOT: data}))


def test_a_definition_that_is_no_domain_is_refused() -> None:
    with pytest.raises(StreamError, match="not a domain"):
        domain_root(definition_of("<network/>"))
    with pytest.raises(StreamError):
        domain_root(Definition({}))


@pytest.mark.parametrize(
    ("os_element", "path"),
    [
        ("<os><nvram>/n/a.fd</nvram></os>", "/n/a.fd"),
        ("<os><nvram type='file'><source file='/n/b.fd'/></nvram></os>", "/n/b.fd"),
        ("<os firmware='efi'/>", "/var/lib/libvirt/qemu/nvram/it_VARS.fd"),
        ("<os><loader type='pflash'>/c.fd</loader></os>", "/var/lib/libvirt/qemu/nvram/it_VARS.fd"),
        ("<os><nvram type='block'><source dev='/dev/x'/></nvram></os>", None),
        ("<os><loader type='rom'>/b.bin</loader></os>", None),
        ("<os firmware='efi'><loader stateless='yes'/></os>", None),
        ("<os/>", None),
    ],
)
def test_where_the_uefi_variables_are(os_element: str, path: str | None) -> None:
    assert nvram_file(parse(f"<domain><name>it</name>{os_element}</domain>", "it")) == path


def test_the_live_definition_knows_a_path_that_the_persistent_one_does_not() -> None:
    persistent = parse("<domain><name>it</name><os firmware='efi'/></domain>", "it")
    live = parse("<domain><name>it</name><os firmware='efi'><nvram>/n/live.fd</nvram></os></domain>", "it")
    assert nvram_file(persistent, live) == "/n/live.fd"


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "vars.fd"
    path.write_bytes(b"abc")
    assert read_stable(str(path), 3) == b"abc"
    assert read_stable(str(path), 2) is None
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(NotFoundError):
            read_stable(str(wrong), 10)
    assert digest_file(str(tmp_path / "none")) is None
    with pytest.raises(NotFoundError, match="regular"):
        read_stable("/dev/null", 10)


def test_a_file_that_keeps_changing_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vars.fd"
    path.write_bytes(b"abc")
    monkeypatch.setattr("os.pread", lambda descriptor, length, offset: b"abd")
    with pytest.raises(BusyError):
        read_stable(str(path), 10)


def test_writing_is_whole_private_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "vars.fd"
    write_durable(str(path), b"one")
    write_durable(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["vars.fd"]
    assert has_content(str(path), b"two")
    assert not has_content(str(path), b"twx")
    assert not has_content(str(tmp_path / "none"), b"")
    remove_file(str(path))
    remove_file(str(path))


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "vars.fd.thinsync-new").symlink_to(victim)
    with pytest.raises(Exception, match=r"vars\.fd"):
        write_durable(str(tmp_path / "vars.fd"), b"evil")
    assert victim.read_bytes() == b"precious"

from __future__ import annotations

from pathlib import Path

import pytest

from thinsync_virt.system.scanners import UDEV_RULE, findings


def look(root: Path, *, scan_lvs: bool = False) -> list[str]:
    return [finding.subject for finding in findings(root=root, scan_lvs=lambda: scan_lvs)]


def write(path: Path, text: str = "x\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_host_that_leaves_our_volumes_alone(tmp_path: Path) -> None:
    write(tmp_path / "usr/lib/udev/rules.d" / UDEV_RULE)
    assert look(tmp_path) == []


def test_the_rule_is_missing_or_masked(tmp_path: Path) -> None:
    assert look(tmp_path) == ["udev"]
    write(tmp_path / "usr/lib/udev/rules.d" / UDEV_RULE)
    (tmp_path / "etc/udev/rules.d").mkdir(parents=True)
    (tmp_path / "etc/udev/rules.d" / UDEV_RULE).symlink_to("/dev/null")
    assert look(tmp_path) == ["udev"]


def test_lvm_scans_volumes(tmp_path: Path) -> None:
    write(tmp_path / "usr/lib/udev/rules.d" / UDEV_RULE)
    assert look(tmp_path, scan_lvs=True) == ["lvm"]


def test_md_without_our_rule(tmp_path: Path) -> None:
    write(tmp_path / "usr/lib/udev/rules.d/64-md-raid-assembly.rules")
    assert look(tmp_path) == ["udev", "md"]
    write(tmp_path / "etc/mdadm/mdadm.conf", "HOMEHOST <system>\nAUTO -all\n")
    assert look(tmp_path) == ["udev"]


def test_multipath_that_takes_dm(tmp_path: Path) -> None:
    write(tmp_path / "usr/lib/udev/rules.d" / UDEV_RULE)
    write(tmp_path / "etc/multipath.conf", 'blacklist_exceptions {\n  devnode "^sd[a-z]"\n}\n')
    assert look(tmp_path) == []
    write(tmp_path / "etc/multipath.conf", 'blacklist_exceptions {\n  devnode ".*"  # all\n}\n')
    assert look(tmp_path) == ["multipath"]


@pytest.mark.parametrize(
    "text",
    [
        'blacklist_exceptions {\n  device {\n    vendor "X"\n    product "Y"\n  }\n  devnode ".*"\n}\n',
        'blacklist_exceptions {\n  devnode "^sd"\n}\nblacklist_exceptions {\n  devnode "^(sd|dm-)"\n}\n',
        'blacklist_exceptions {\n  devnode "!^(sd[a-z]|nvme[0-9])"\n}\n',
        'blacklist {\n  devnode "^dm-"\n}\nblacklist_exceptions {\n  devnode ".*"\n}\n',
    ],
    ids=["behind a device", "in a second section", "all but others", "beside the blacklist"],
)
@pytest.mark.parametrize("file", ["etc/multipath.conf", "etc/multipath/conf.d/ours.conf"])
def test_an_exception_that_means_dm_counts_wherever_it_stands(file: str, text: str, tmp_path: Path) -> None:
    write(tmp_path / "usr/lib/udev/rules.d" / UDEV_RULE)
    write(tmp_path / file, text)
    assert look(tmp_path) == ["multipath"]


@pytest.mark.parametrize(
    "text",
    [
        'blacklist_exceptions {\n  devnode "!^dm-"\n}\n',
        '! devnode ".*"\nblacklist_exceptions {\n  # devnode ".*"\n  property "(SCSI_IDENT_|ID_WWN)"\n}\n',
        'blacklist {\n  devnode ".*"\n}\n',
    ],
    ids=["all but ours", "a comment", "the blacklist"],
)
def test_what_means_no_dm_does_not(text: str, tmp_path: Path) -> None:
    write(tmp_path / "usr/lib/udev/rules.d" / UDEV_RULE)
    write(tmp_path / "etc/multipath.conf", text)
    assert look(tmp_path) == []


def test_the_remedy_for_multipath_leads_out(tmp_path: Path) -> None:
    """An exception goes before the blacklist, so nothing that is written there can be the remedy."""
    write(tmp_path / "usr/lib/udev/rules.d" / UDEV_RULE)
    write(tmp_path / "etc/multipath.conf", 'blacklist_exceptions {\n  devnode ".*"\n}\n')
    (found,) = findings(root=tmp_path, scan_lvs=lambda: False)
    assert "blacklist_exceptions" in found.hint

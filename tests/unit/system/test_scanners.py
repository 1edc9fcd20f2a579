from __future__ import annotations

from pathlib import Path

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

"""The table of flushes is of all flushes that the source has, and the one way out is the only one."""

from __future__ import annotations

import ast
from pathlib import Path

import flush_sites
import pytest
from flush_scenarios import CHANGES
from flushes import FLUSHES, InLab, Proof

WAYS_OUT = ("fsync", "fdatasync", "sync", "sync_file_range", "syncfs")


def test_every_flush_is_proven_or_explained() -> None:
    assert set(flush_sites.sites()) - set(FLUSHES) == set(), "flushes that the table does not know"
    assert set(FLUSHES) - set(flush_sites.sites()) == set(), "flushes that are not in the source"


def test_those_left_out_beside_another_are_in_the_table() -> None:
    for name, entry in FLUSHES.items():
        if isinstance(entry, Proof):
            assert set(entry.also) <= set(FLUSHES) - {name}


def test_each_change_of_lvm_has_one_proof_in_the_lab() -> None:
    assert sorted(entry.change for entry in FLUSHES.values() if isinstance(entry, InLab)) == sorted(CHANGES)


@pytest.mark.parametrize("path", sorted(flush_sites.ROOT.rglob("*.py")), ids=lambda path: path.stem)
def test_there_is_one_way_out(path: Path) -> None:
    """Nothing but ``flushes`` asks the kernel itself, and each name is taken from there."""
    if path.name == "flushes.py":
        return
    tree = ast.parse(path.read_text())
    imported = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "thinsync_virt.flushes"
        for name in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in WAYS_OUT, f"{path}:{node.lineno}"
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in flush_sites.ENDS
        ):
            assert node.func.id in imported, f"{path}:{node.lineno}"


def test_the_same_place_twice_has_two_names() -> None:
    found = flush_sites.sites()
    assert found["register._settle/sync_path"].lines != found["register._settle/sync_path#2"].lines
    assert len({lines for site in found.values() for lines in site.lines}) == sum(
        len(site.lines) for site in found.values()
    )

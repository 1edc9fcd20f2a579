"""What each device has alone, against a count from the model of a random history."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.thinmeta.pool import ThinPool
from tests.unit.thin.images import Image
from tests.unit.thin.samples import Model, make_pool, steps
from thinsync_virt.errors import PoolError
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin.blocks import CheckedReader
from thinsync_virt.thin.superblock import read_trees
from thinsync_virt.thin.usage import Usage, read_usage

quiet = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def usage(path: Path, groups: dict[int, str] | None = None, *, held: bool = False) -> tuple[Usage, int]:
    """What is found, and how many blocks were read for it."""
    with MetadataReader(str(path)) as reader:
        checked = CheckedReader(reader)
        return read_usage(checked, read_trees(checked, metadata_snapshot=held), groups), checked.read_blocks


def expected(models: dict[int, Model], groups: dict[int, str]) -> Usage:
    owners: dict[int, set[int]] = {}
    for device, model in models.items():
        for chunk in model.values():
            owners.setdefault(chunk, set()).add(device)
    alone = Counter(next(iter(who)) for who in owners.values() if len(who) == 1)
    parties = [{groups.get(device, "") for device in who} for who in owners.values()]
    together = Counter(next(iter(who)) for who in parties if len(who) == 1)
    return Usage(
        65536,
        {device: len(model) for device, model in models.items()},
        {device: alone[device] for device in models},
        {name: together[name] for name in sorted({groups[device] for device in models if device in groups})},
        len(owners),
    )


@given(history=steps(), room=st.sampled_from([6, 9, 252]), parted=st.integers(0, 3))
@settings(quiet, max_examples=80)
def test_what_a_history_leaves(
    tmp_path: Path, history: list[tuple[Any, ...]], room: int, parted: int
) -> None:
    _, models = make_pool(tmp_path / "m", history, room=room)
    groups = {device: f"g{device % parted}" for device in models if parted and device % 4}
    assert usage(tmp_path / "m", groups)[0] == expected(models, groups)


@given(history=steps(), room=st.sampled_from([6, 252]))
@settings(quiet, max_examples=20)
def test_the_same_as_thin_ls(tmp_path: Path, history: list[tuple[Any, ...]], room: int) -> None:
    make_pool(tmp_path / "m", history, room=room)
    command = [
        "thin_ls",
        "--no-headers",
        "--format",
        "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS",
        str(tmp_path / "m"),
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = usage(tmp_path / "m")[0]
    ours = [[device, found.mapped[device], found.alone[device]] for device in sorted(found.mapped)]
    assert ours == [[int(word) for word in line.split()] for line in said.splitlines()]


def test_trees_of_different_height_that_share_nodes(tmp_path: Path) -> None:
    history = [("snapshot", 0), ("discard", 0, (0, 280)), ("snapshot", 1), ("write", 2, (300, 3000))]
    pool, models = make_pool(tmp_path / "m", history, room=6)
    assert len({tree.height for tree in pool.devices.values()}) == 3
    assert usage(tmp_path / "m")[0] == expected(models, {})


def test_shared_nodes_are_read_once(tmp_path: Path) -> None:
    history: list[tuple[Any, ...]] = [("snapshot", at) for at in range(30)]
    make_pool(tmp_path / "one", [], room=6)
    make_pool(tmp_path / "many", history, room=6)
    found, blocks = usage(tmp_path / "many")
    assert len(found.alone) == 31 and not any(found.alone.values())
    assert blocks == usage(tmp_path / "one")[1]


def test_a_copied_leaf_still_maps_what_its_original_maps(tmp_path: Path) -> None:
    pool, _ = make_pool(tmp_path / "m", [("snapshot", 0), ("write", 1, [4])], room=252)
    assert pool.devices[1].root != pool.devices[2].root
    assert usage(tmp_path / "m")[0].alone == {1: 1, 2: 1}


def test_the_metadata_snapshot_is_the_state_of_its_instant(tmp_path: Path) -> None:
    pool, _ = make_pool(tmp_path / "m", [], room=6)
    pool.reserve()
    pool.write(1, {500: 9000})
    pool.save()
    assert usage(tmp_path / "m", held=True)[0].alone == {1: 150}
    assert usage(tmp_path / "m")[0].alone == {1: 151}


def test_a_pool_without_volumes(tmp_path: Path) -> None:
    pool = ThinPool(tmp_path / "m")
    pool.save()
    assert usage(tmp_path / "m")[0] == Usage(65536, {}, {}, {}, 0)


def test_owners_that_do_not_fit_two_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thinsync_virt.thin import owners

    history = [("snapshot", 0), ("write", 0, (0, 20)), ("snapshot", 1), ("write", 2, (10, 9))]
    _, models = make_pool(tmp_path / "m", history, room=9)
    monkeypatch.setattr(owners, "_TWO_BYTES", 1)
    assert usage(tmp_path / "m")[0] == expected(models, {})


@given(data=st.data(), room=st.sampled_from([6, 252]))
@settings(quiet, max_examples=80)
def test_damage_is_an_error_or_was_not_read(tmp_path: Path, data: st.DataObject, room: int) -> None:
    history = [("snapshot", 0), ("write", 0, (0, 50))]
    pool, models = make_pool(tmp_path / "m", history, room=room)
    used = sorted(pool.checksummed)
    number = data.draw(st.sampled_from(used))
    at = number * 4096 + data.draw(st.integers(0, 4095))
    content = bytearray((tmp_path / "m").read_bytes())
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "bad").write_bytes(content)
    found: Usage | PoolError
    try:
        found = usage(tmp_path / "bad")[0]
    except PoolError as error:
        found = error
    if isinstance(found, PoolError):
        assert str(number) in found.message and found.hint
    else:
        assert found == expected(models, {})


def image(roots: dict[int, int], made: Image, mapped: dict[int, int], data_blocks: int = 1 << 30) -> Image:
    """With details that tell so many chunks."""
    made.finish(roots, data_blocks=data_blocks)
    details = int.from_bytes(made.content[0][328:336], "little")
    values = [word for device in roots for word in (mapped[device], 1, 1)]
    made.node(list(roots), values, leaf=True, at=details, most=126, value_size=24)
    return made


def refusal(made: Image) -> str:
    reader = CheckedReader(made)
    with pytest.raises(PoolError) as caught:
        read_usage(reader, read_trees(reader, metadata_snapshot=False))
    assert caught.value.hint
    return caught.value.message


def test_a_tree_that_leads_back_to_its_root() -> None:
    made = Image()
    root = made.claim()
    made.node([0], [root], leaf=False, at=root)
    assert "no end: a loop" in refusal(image({1: root}, made, {1: 0}))


def test_a_leaf_that_a_tree_has_twice() -> None:
    made = Image()
    leaf = made.node([0, 1], [5 << 24, 6 << 24], leaf=True)
    root = made.node([0, 100], [leaf, leaf], leaf=False)
    assert f"block {leaf} has keys 0 to 1 where" in refusal(image({1: root}, made, {1: 2}))


@pytest.mark.parametrize("height", [0, 1])
def test_subtrees_that_changed_places(height: int) -> None:
    """Each chunk is mapped as often as the details tell, and no volume finds its own."""
    made = Image()
    low, high = (made.node([key, key + 1], [key << 24, key + 1 << 24], leaf=True) for key in (0, 100))
    if height:
        low, high = (made.node([key], [leaf], leaf=False) for key, leaf in ((0, low), (100, high)))
    healthy = made.node([0, 100], [low, high], leaf=False)
    wrong = made.node([0, 100], [high, low], leaf=False)
    said = refusal(image({1: healthy, 2: wrong}, made, {1: 4, 2: 4}))
    assert f"block {low} has keys 0 to" in said and "where 100 to" in said


def test_a_leaf_among_inner_nodes_and_the_other_way_round() -> None:
    made = Image()
    low, high = (made.node([key], [key << 24], leaf=True) for key in (0, 100))
    inner = made.node([0], [low], leaf=False)
    assert "is a leaf where" in refusal(
        image({1: made.node([0, 100], [inner, high], leaf=False)}, made, {1: 2})
    )
    made = Image()
    low, high = (made.node([key], [key << 24], leaf=True) for key in (0, 100))
    inner = made.node([100], [high], leaf=False)
    assert "is an internal node where" in refusal(
        image({1: made.node([0, 100], [low, inner], leaf=False)}, made, {1: 2})
    )


def test_keys_out_of_order_and_chunks_beyond_the_end() -> None:
    made = Image()
    root = made.node([3, 2], [3 << 24, 2 << 24], leaf=True)
    assert "keys out of order" in refusal(image({1: root}, made, {1: 2}))
    made = Image()
    root = made.node([3], [100 << 24], leaf=True)
    assert "beyond the end" in refusal(image({1: root}, made, {1: 1}, data_blocks=100))


def test_a_device_without_details() -> None:
    made = Image()
    root = made.node([3], [1 << 24], leaf=True)
    made.finish({1: root})
    assert "device 1 has no details" in refusal(made)


def test_more_chunks_than_any_memory_holds() -> None:
    made = Image()
    root = made.node([3], [1 << 24], leaf=True)
    assert "more than fit into memory" in refusal(image({1: root}, made, {1: 1}, data_blocks=1 << 62))


def test_leaves_that_are_not_alike() -> None:
    made = Image()
    low = made.node([0, 1], [7 << 24, 8 << 24], leaf=True, most=6)
    high = made.node([100], [9 << 24], leaf=True)
    root = made.node([0, 100], [low, high], leaf=False)
    reader = CheckedReader(image({1: root}, made, {1: 3}))
    found = read_usage(reader, read_trees(reader, metadata_snapshot=False))
    assert (found.alone, found.referenced) == ({1: 3}, 3)

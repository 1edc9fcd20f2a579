"""Trees that no healthy pool has end in an error that names the block; healthy ones are read no further than needed."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable

import pytest

from tests.unit.thin.images import Image, Mapping, sealed
from thinsync_virt.errors import NotFoundError, PoolError
from thinsync_virt.model.extents import Extent, ExtentKind
from thinsync_virt.thin import delta as delta_module
from thinsync_virt.thin.blocks import SUPERBLOCK_SALT
from thinsync_virt.thin.metadata import ThinMetadata

CHUNK = 65536


@pytest.fixture(params=["plain", "vectors"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compare leaves, whatever there is to compare."""
    if request.param == "vectors":
        monkeypatch.setattr(delta_module, "_FEW_LEAVES", -1)
        monkeypatch.setattr(delta_module, "_FEW_PAIRS", -1)
        monkeypatch.setattr(delta_module, "_FEW_AT_HAND", -1)
    return str(request.param)


def chunks(base: Mapping, head: Mapping) -> dict[int, ExtentKind]:
    found = {key: ExtentKind.DATA for key, data in head.items() if base.get(key) != data}
    return found | dict.fromkeys(base.keys() - head.keys(), ExtentKind.UNMAPPED)


def spread(extents: list[Extent]) -> dict[int, ExtentKind]:
    return {
        chunk: extent.kind
        for extent in extents
        for chunk in range(extent.start // CHUNK, extent.end // CHUNK)
    }


def check(image: Image, base: Mapping, head: Mapping) -> None:
    extents = list(ThinMetadata(image, metadata_snapshot=False).difference(1, 2))
    assert spread(extents) == chunks(base, head)
    for before, after in itertools.pairwise(extents):
        assert before.end < after.start or (before.end == after.start and before.kind is not after.kind)


@pytest.mark.parametrize("seed", range(60))
def test_trees_of_every_shape(by: str, seed: int) -> None:
    dice = random.Random(seed)
    count = dice.choice([0, 1, 50, 3000])
    reach = count * dice.choice([1, 2, 50]) + 1
    base = {dice.randrange(reach): dice.randrange(1 << 29) for _ in range(count)}
    head = {key: data for key, data in base.items() if dice.random() > 0.1}
    for _ in range(dice.choice([0, 1, 30, 3000])):
        head[dice.randrange(2 * reach)] = dice.randrange(1 << 29)
    image = Image()
    shape = {"leaf_entries": dice.choice([1, 7, 100, 252]), "fan_out": dice.choice([2, 5, 252])}
    roots = {
        1: image.tree(base, **shape),
        2: image.tree(head, leaf_entries=dice.choice([3, 80, 252]), time=9),
    }
    check(image.finish(roots), base, head)


def test_trees_of_different_heights_share_what_they_share(by: str) -> None:
    """The head has grown a level; its left half is the base's own subtree."""
    base = {key: key for key in range(300)}
    image = Image()
    old = image.tree(base)
    more = {key: key + 7 for key in range(1000, 1300)}
    right = image.tree(more)
    new = image.node([0, 1000], [old, right], leaf=False)
    image.finish({1: old, 2: new})
    check(image, base, base | more)


def copied(image: Image, root: int, mapping: Mapping, changed: list[int]) -> int:
    """A snapshot's tree in which the leaves of some keys are new and all others shared, as the kernel makes it."""
    items = sorted(mapping.items())
    fresh: list[tuple[int, int]] = []
    content = image.content[root]
    count = int.from_bytes(content[16:20], "little")
    keys = [int.from_bytes(content[32 + 8 * i : 40 + 8 * i], "little") for i in range(count)]
    start = 32 + 8 * 252
    blocks = [int.from_bytes(content[start + 8 * i : start + 8 * i + 8], "little") for i in range(count)]
    for index, (key, block) in enumerate(zip(keys, blocks, strict=True)):
        upper = keys[index + 1] if index + 1 < count else 1 << 63
        if any(key <= one < upper for one in changed):
            part = [(k, v) for k, v in items if key <= k < upper]
            block = image.node(
                [k for k, _ in part], [(v + (k in changed)) << 24 | 2 for k, v in part], leaf=True
            )
        fresh.append((key, block))
    return image.node([key for key, _ in fresh], [block for _, block in fresh], leaf=False)


def test_shared_leaves_are_not_read(by: str) -> None:
    base = {key: 2 * key for key in range(25000)}
    image = Image()
    old = image.tree(base, fan_out=252)
    changed = [150, 12345, 24999]
    image.finish({1: old, 2: copied(image, old, base, changed)})
    head = base | {key: base[key] + 1 for key in changed}
    image.seen.clear()
    check(image, base, head)
    # Three leaves and the root differ, at either side.
    assert len(image.seen) <= 1.1 * 2 * (3 + 1) + 12


def test_equal_roots_are_not_even_read(by: str) -> None:
    image = Image()
    root = image.tree({1: 1})
    image.finish({1: root, 2: root})
    assert ThinMetadata(image, metadata_snapshot=False).unchanged(1, 2)
    assert root not in image.seen


def test_damage_in_what_both_share_is_not_met(by: str) -> None:
    base = {key: key for key in range(1000)}
    image = Image()
    old = image.tree(base)
    image.finish({1: old, 2: copied(image, old, base, [5])})
    leaf = 9
    image.content[leaf] = bytes(4096)
    check(image, base, base | {5: 6})


Damage = Callable[[Image, int], None]


def _loop(image: Image, root: int) -> None:
    image.node([0], [root], leaf=False, at=root)


def _wide_loop(image: Image, root: int) -> None:
    image.node(list(range(252)), [root] * 252, leaf=False, at=root)


def _keys_out_of_order(image: Image, root: int) -> None:
    image.node([5, 4], [1 << 24, 2 << 24], leaf=True, at=root)


def _keys_twice(image: Image, root: int) -> None:
    image.node([5, 5], [1 << 24, 2 << 24], leaf=True, at=root)


def _overlapping_leaves(image: Image, root: int) -> None:
    first = image.node([0, 900], [1 << 24, 2 << 24], leaf=True)
    second = image.node([500, 600], [3 << 24, 4 << 24], leaf=True)
    image.node([0, 500], [first, second], leaf=False, at=root)


def _key_below_its_parents(image: Image, root: int) -> None:
    first = image.node([0], [1 << 24], leaf=True)
    second = image.node([400], [3 << 24], leaf=True)
    image.node([0, 500], [first, second], leaf=False, at=root)


def _child_beyond_the_end(image: Image, root: int) -> None:
    image.node([0], [1 << 40], leaf=False, at=root)


def _data_beyond_the_end(image: Image, root: int) -> None:
    image.node([3], [(1 << 30) << 24], leaf=True, at=root)


def _another_number(image: Image, root: int) -> None:
    image.node([3], [1 << 24], leaf=True, at=root, number=root + 1)


def _no_kind(image: Image, root: int) -> None:
    image.node([3], [1 << 24], leaf=True, at=root, flags=3)


def _too_many_entries(image: Image, root: int) -> None:
    image.node([3], [1 << 24], leaf=True, at=root, entries=253)


def _node_larger_than_its_block(image: Image, root: int) -> None:
    image.node([3], [1 << 24], leaf=True, at=root, most=255, entries=255)


def _wrong_value_size(image: Image, root: int) -> None:
    image.node([3], [1 << 24], leaf=True, at=root, value_size=16, most=126)


def _empty_internal(image: Image, root: int) -> None:
    image.node([], [], leaf=False, at=root)


def _leaves_at_two_heights(image: Image, root: int) -> None:
    leaf = image.node([500], [1 << 24], leaf=True)
    lower = image.node([0], [image.node([0], [1 << 24], leaf=True)], leaf=False)
    image.node([0, 500], [lower, leaf], leaf=False, at=root)


def _one_child_twice(image: Image, root: int) -> None:
    leaf = image.node([500], [1 << 24], leaf=True)
    image.node([0, 400], [leaf, leaf], leaf=False, at=root)


def _bit(image: Image, root: int) -> None:
    content = bytearray(image.content[root])
    content[2000] ^= 4
    image.content[root] = bytes(content)


DAMAGES = [
    _loop, _wide_loop, _keys_out_of_order, _keys_twice, _overlapping_leaves, _key_below_its_parents,
    _child_beyond_the_end, _data_beyond_the_end, _another_number, _no_kind, _too_many_entries,
    _node_larger_than_its_block, _wrong_value_size, _empty_internal, _leaves_at_two_heights, _one_child_twice, _bit,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__[1:])
@pytest.mark.parametrize("side", [1, 2])
def test_damage_ends_in_an_error_that_names_a_block(by: str, damage: Damage, side: int) -> None:
    image = Image()
    healthy = image.tree({key: key for key in range(700)})
    root = image.claim()
    image.node([1], [1 << 24], leaf=True, at=root)
    damage(image, root)
    image.finish({side: root, 3 - side: healthy})
    metadata = ThinMetadata(image, metadata_snapshot=False)
    for read in (metadata.difference(1, 2), metadata.mappings(side)):
        with pytest.raises(PoolError, match="metadata block") as failure:
            list(read)
        assert "thin_check" in failure.value.hint


@pytest.mark.parametrize("side", [1, 2])
def test_a_shared_leaf_at_another_place_is_not_taken_for_equal(by: str, side: int) -> None:
    """One tree refers to a leaf of the other where its keys have no business to be."""
    image = Image()
    leaves = [image.node([key], [key << 24], leaf=True) for key in (0, 10, 20)]
    healthy = image.node([0, 10, 20], leaves, leaf=False)
    copy, last = image.node([0], [5 << 24], leaf=True), image.node([30], [6 << 24], leaf=True)
    forged = image.node([0, 10, 20, 30], [copy, leaves[1], leaves[0], last], leaf=False)
    image.finish(dict(sorted({side: forged, 3 - side: healthy}.items())))
    with pytest.raises(PoolError, match=f"metadata block {leaves[0]} has keys 0 to 0 where 20 to 30 must be"):
        list(ThinMetadata(image, metadata_snapshot=False).difference(1, 2))


def test_a_superblock_that_is_none() -> None:
    for content in (b"", bytes(4096), b"\xff" * 4096):
        image = Image(blocks=1 if content else 0, content={0: content})
        with pytest.raises(PoolError) as failure:
            list(ThinMetadata(image, metadata_snapshot=False).mappings(1))
        assert "pool's metadata" in failure.value.hint


def test_a_copy_that_was_cut_off() -> None:
    image = Image(name="copy")
    image.finish({1: image.tree({1: 1})})
    image.blocks = 1
    with pytest.raises(PoolError, match="beyond the end of the metadata") as failure:
        list(ThinMetadata(image, metadata_snapshot=False).mappings(1))
    assert "a whole copy" in failure.value.hint


def test_features_that_nobody_may_ignore() -> None:
    image = Image()
    root = image.tree({1: 1})
    image.finish({1: root}, mapped={1: 1}, features=(1 << 31, 1, 0))
    assert len(list(ThinMetadata(image, metadata_snapshot=False).mappings(1))) == 1
    image.finish({1: root}, features=(0, 0, 1 << 31))
    with pytest.raises(PoolError, match="0x80000000") as failure:
        list(ThinMetadata(image, metadata_snapshot=False).mappings(1))
    assert failure.value.hint


def test_devices_that_are_not_where_they_must_be() -> None:
    """Two nodes of the tree of devices change places: no device is taken for one that is not there."""
    image = Image()
    device = image.tree({1: 1})
    low, high = (image.node([first, first + 1], [device] * 2, leaf=True) for first in (1, 300))
    image.finish({1: device})
    for children, there in (([low, high], True), ([high, low], False)):
        top = image.node([1, 300], children, leaf=False)
        superblock = bytearray(image.content[0])
        struct.pack_into("<Q", superblock, 320, top)
        image.content[0] = sealed(bytes(superblock), SUPERBLOCK_SALT)
        for thin_id in (1, 2, 300, 301):
            runs = ThinMetadata(image, metadata_snapshot=False).runs(None, thin_id)
            if there:
                assert len(list(runs)) == 1
                continue
            with pytest.raises(PoolError, match=r"metadata block .* must be"):
                list(runs)


def test_no_such_device(by: str) -> None:
    image = Image()
    image.finish({1: image.tree({1: 1})})
    metadata = ThinMetadata(image, metadata_snapshot=False)
    for read in (metadata.difference(1, 9), metadata.difference(9, 1), metadata.mappings(9)):
        with pytest.raises(NotFoundError, match="9") as failure:
            list(read)
        # lvs knows nothing of what is in a copy.
        assert "lvs" in failure.value.hint and "thin_ls" in failure.value.hint

"""A comparison in parts, in windows of any size, by either engine: one answer, and no more read than differs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.bench.metadata_maker import make
from tests.thinmeta.pool import ThinPool
from tests.unit.thin.images import Image, Mapping, sealed
from tests.unit.thin.samples import Model, make_pool
from thinsync_virt.errors import PoolError
from thinsync_virt.system.metadata_reader import MetadataReader
from thinsync_virt.thin import delta, levels
from thinsync_virt.thin.blocks import NODE_SALT
from thinsync_virt.thin.metadata import ThinMetadata
from thinsync_virt.thin.runs import DATA, UNMAPPED, joined

Row = tuple[int, int, int]


def set_engine(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    few = {"plain": 1 << 30, "vectors": -1}[engine]
    monkeypatch.setattr(delta, "_FEW_LEAVES", few)
    monkeypatch.setattr(delta, "_FEW_PAIRS", few)
    monkeypatch.setattr(delta, "_FEW_AT_HAND", few)


def set_small(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """As if what is compared were huge: windows of a few nodes, parts of one leaf."""
    monkeypatch.setattr(levels, "WINDOW", window)
    monkeypatch.setattr(delta, "_FEW_PARENTS", 4 * window)
    monkeypatch.setattr(delta, "_SHARED_LEAVES", 1)
    monkeypatch.setattr(delta, "_PART_LEAVES", 1)


@pytest.fixture(params=["plain", "vectors"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    set_engine(monkeypatch, request.param)
    return str(request.param)


@pytest.fixture(params=[1, 3, 128])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    set_small(monkeypatch, request.param)
    return int(request.param)


def rows_of(base: Model, head: Model) -> list[Row]:
    """The runs, from the models."""
    found: list[Row] = []
    for key in sorted({*base, *head}):
        if base.get(key) == head.get(key):
            continue
        kind = DATA if key in head else UNMAPPED
        if found and found[-1][0] + found[-1][1] == key and found[-1][2] == kind:
            found[-1] = (found[-1][0], found[-1][1] + 1, kind)
        else:
            found.append((key, 1, kind))
    return found


def whole(metadata: ThinMetadata, base: int | None, head: int) -> list[Row]:
    return [row for batch in metadata.runs(base, head) for row in batch.rows()]


def in_parts(metadata: ThinMetadata, base: int | None, head: int) -> list[Row]:
    parts = metadata.parts(base, head)
    # Each by itself, and in any order, as in several processes.
    found = {index: list(metadata.part_runs(parts[index])) for index in reversed(range(len(parts)))}
    batches = itertools.chain.from_iterable(found[index] for index in range(len(parts)))
    return [row for batch in joined(batches) for row in batch.rows()]


def history(dice: random.Random) -> Iterator[tuple[object, ...]]:
    for _ in range(dice.randrange(1, 14)):
        kind = dice.choice(["write", "write", "discard", "retime", "snapshot", "snapshot", "delete"])
        device = dice.randrange(4)
        if kind in ("snapshot", "delete"):
            yield kind, device
        elif kind != "retime" and dice.random() < 0.5:
            yield kind, device, (dice.randrange(400), dice.randrange(1, 150))
        else:
            yield kind, device, dice.sample(range(400), dice.randrange(1, 30))


@pytest.mark.parametrize("seed", range(16))
def test_parts_make_the_whole(tmp_path: Path, engine: str, window: int, seed: int) -> None:
    dice = random.Random(seed)
    room = dice.choice([6, 9, 30, 252])
    _, models = make_pool(tmp_path / "m", list(history(dice)), room=room)
    with MetadataReader(str(tmp_path / "m")) as reader:
        metadata = ThinMetadata(reader, metadata_snapshot=False)
        for base, head in itertools.product([None, *models], models):
            expected = rows_of({} if base is None else models[base], models[head])
            assert whole(metadata, base, head) == expected
            assert in_parts(metadata, base, head) == expected


def test_there_are_parts(tmp_path: Path, engine: str, window: int) -> None:
    """Or the tests above would prove little."""
    changes = [("snapshot", 0), ("write", 1, list(range(0, 1600, 3)))]
    _, models = make_pool(tmp_path / "m", changes, room=6, start=800)
    with MetadataReader(str(tmp_path / "m")) as reader:
        metadata = ThinMetadata(reader, metadata_snapshot=False)
        assert len(metadata.parts(1, 2)) > (4 if window > 3 else 1)
        assert in_parts(metadata, 1, 2) == rows_of(models[1], models[2])
        assert metadata.parts(1, 1) == []


def test_of_known_leaves_a_part_is_one_window(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "m"
    make(path, 60_000, 0.3, clustered=False)
    with MetadataReader(str(path)) as reader:
        metadata = ThinMetadata(reader, metadata_snapshot=False)
        # Fewer are not cut at all.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(delta, "_SHARED_LEAVES", 1)
            parts = metadata.parts(1, 2)
    assert {part.heights for part in parts} == {(0, 0)}
    lengths = [len(part.window.ours) for part in parts]
    assert sum(lengths) > 3 * levels.WINDOW and max(lengths) <= levels.WINDOW
    assert len(parts) == -(-sum(lengths) // levels.WINDOW)


def test_trees_of_different_height(tmp_path: Path, engine: str, window: int) -> None:
    changes = [("snapshot", 0), ("discard", 0, (0, 280)), ("snapshot", 1), ("write", 2, (300, 2000))]
    pool, models = make_pool(tmp_path / "m", changes, room=6)
    assert len({tree.height for tree in pool.devices.values()}) == 3
    with MetadataReader(str(tmp_path / "m")) as reader:
        metadata = ThinMetadata(reader, metadata_snapshot=False)
        for base, head in itertools.product(models, models):
            expected = rows_of(models[base], models[head])
            assert whole(metadata, base, head) == in_parts(metadata, base, head) == expected


def lived(path: Path, seed: int, keys: int = 40_000) -> tuple[ThinPool, dict[int, Model]]:
    """A base and its snapshot with nodes of full size, both written to for long: leaves split, merged and moved."""
    dice = np.random.default_rng(seed)
    pool = ThinPool(path, blocks=6000, data_blocks=1 << 20)
    present = np.flatnonzero(dice.random(keys) < 0.7).astype(np.uint64)
    pool.create(1, present, np.arange(len(present), dtype=np.uint64))
    models: dict[int, Model] = {1: dict(zip(present.tolist(), range(len(present)), strict=True))}
    pool.snapshot(1, 2)
    models[2] = dict(models[1])
    following = len(present)
    for _ in range(6):
        for device, count in ((2, 300), (1, 60)):
            pool.time += 1
            start = int(dice.integers(0, keys))
            cluster = np.arange(start, start + int(dice.integers(1, 900)))
            chosen = np.unique(np.concatenate((cluster, dice.integers(0, keys, count))))
            model = models[device]
            changes: dict[int, int | None] = {}
            for key in chosen.tolist():
                fate = dice.random()
                if fate < 0.6:
                    changes[key] = model[key] = following
                    following += 1
                elif key in model and fate < 0.9:
                    del model[key]
                    changes[key] = None
                elif key in model:
                    changes[key] = model[key]
            pool.write(device, changes)
    pool.save(space_maps=False)
    return pool, models


def nodes(pool: ThinPool, root: int, height: int) -> set[int]:
    found = {root}
    if height:
        for child in pool.entries(root)[1].tolist():
            found |= nodes(pool, child, height - 1)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_long_lives(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    pool, models = lived(tmp_path / "m", seed)
    expected = rows_of(models[1], models[2])
    assert {kind for _, _, kind in expected} == {DATA, UNMAPPED}
    with MetadataReader(str(tmp_path / "m")) as reader:
        metadata = ThinMetadata(reader, metadata_snapshot=False)
        assert whole(metadata, 1, 2) == expected
        trees = [nodes(pool, pool.devices[device].root, pool.devices[device].height) for device in (1, 2)]
        assert metadata.blocks_read <= 1.1 * len(trees[0] ^ trees[1]) + 12
        before = metadata.blocks_read
        assert whole(metadata, None, 2) == rows_of({}, models[2])
        assert metadata.blocks_read - before <= 1.1 * len(trees[1]) + 12
        set_small(monkeypatch, 7)
        assert in_parts(metadata, 1, 2) == expected
        assert in_parts(metadata, 2, 1) == rows_of(models[2], models[1])
        assert len(metadata.parts(1, 2)) > 10


class _Measured:
    """A reader that notes how many blocks are asked for at once."""

    def __init__(self, reader: MetadataReader) -> None:
        self._reader = reader
        self.name, self.blocks = reader.name, reader.blocks
        self.most = 0

    def read(self, numbers: Sequence[int]) -> memoryview:
        self.most = max(self.most, len(numbers))
        return self._reader.read(numbers)


def test_no_more_than_a_window_is_in_memory(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(tmp_path / "m", 7)
    set_small(monkeypatch, 5)
    with MetadataReader(str(tmp_path / "m")) as file:
        reader = _Measured(file)
        metadata = ThinMetadata(reader, metadata_snapshot=False)
        for base, head in ((1, 2), (None, 2)):
            largest = 0
            for batch in metadata.runs(base, head):
                largest = max(largest, len(batch.starts))
            assert 0 < largest <= 2 * 5 * 252
        assert reader.most == 2 * 5


class _Forgery:
    """Two trees that share nodes, in which any word can be changed and the checksum made right again."""

    def __init__(self, dice: random.Random, entries: int) -> None:
        self.image = Image()
        base: Mapping = {key: key for key in range(1500)}
        if dice.random() < 0.5:
            base = {3 * key + dice.randrange(3): key for key in range(1500)}
        head = dict(base)
        for key in dice.sample(sorted(base), 40):
            head[key] = 10_000 + key
        if dice.random() < 0.5:
            for key in dice.sample(sorted(base), 10):
                del head[key]
        shape = {"leaf_entries": entries, "fan_out": entries}
        self.roots = {1: self.image.tree(base, **shape), 2: self.image.tree(head, **shape)}
        self.last = self.image.claim()
        self.image.finish(self.roots, data_blocks=20_000)

    def change(self, dice: random.Random) -> None:
        block = dice.randrange(1, self.last)
        content = bytearray(self.image.content[block])
        entries = int.from_bytes(content[16:20], "little")
        place = dice.choice([4, 8, 16, 20, 24, "key", "key", "value", "value"])
        if isinstance(place, int):
            length, at = (8 if place == 8 else 4), place
        else:
            length = 8
            at = (32 if place == "key" else 32 + 8 * 252) + 8 * dice.randrange(entries)
        old = int.from_bytes(content[at : at + length], "little")
        new = dice.choice(
            [0, 1, 2, 255, old + 1, old - 1, old ^ 1 << dice.randrange(8 * length), (1 << 8 * length) - 1]
        )
        content[at : at + length] = (new % (1 << 8 * length)).to_bytes(length, "little")
        self.image.content[block] = sealed(bytes(content[4:]), NODE_SALT)


def outcome(image: Image, *, parts: bool) -> list[Row] | str:
    """The runs, or the error's words."""
    metadata = ThinMetadata(image, metadata_snapshot=False)
    try:
        return in_parts(metadata, 1, 2) if parts else whole(metadata, 1, 2)
    except PoolError as error:
        return f"{error.message}: {error.hint}"


@pytest.mark.parametrize("seed", range(120))
def test_forged_nodes_give_one_answer_or_an_error(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    dice = random.Random(seed)
    forgery = _Forgery(dice, dice.choice([20, 100, 252]))
    for _ in range(dice.choice([1, 1, 2])):
        forgery.change(dice)
    found = []
    for engine in ("plain", "vectors"):
        set_engine(monkeypatch, engine)
        with monkeypatch.context() as small:
            found.append(outcome(forgery.image, parts=False))
            set_small(small, 2)
            found.append(outcome(forgery.image, parts=False))
            found.append(outcome(forgery.image, parts=True))
    if any(isinstance(one, str) for one in found):
        assert all("metadata block" in one and "thin_check" in one for one in found if isinstance(one, str))
        assert all(isinstance(one, str) for one in found)
        # The same windows meet the same block first, whoever compares.
        assert found[:3] == found[3:]
    else:
        assert all(one == found[0] for one in found)


@pytest.mark.parametrize("side", [1, 2])
def test_keys_that_no_volume_has(engine: str, side: int) -> None:
    image = Image()
    far = (1 << 63) // 65536
    roots = {side: image.tree({3: 3, far - 1: 4}), 3 - side: image.tree({3: 3})}
    image.finish(dict(sorted(roots.items())))
    expected = (far - 1, 1, DATA if side == 2 else UNMAPPED)
    assert whole(ThinMetadata(image, metadata_snapshot=False), 1, 2) == [expected]
    roots[side] = image.tree({3: 3, far: 4})
    image.finish(dict(sorted(roots.items())))
    with pytest.raises(PoolError, match=f"metadata block .* has keys 3 to {far}"):
        whole(ThinMetadata(image, metadata_snapshot=False), 1, 2)


def test_the_last_chunk_of_the_largest_volume_hangs_over_its_end(engine: str) -> None:
    image = Image()
    sectors = 384
    last = ((1 << 63) - 1) // (512 * sectors)
    image.finish({1: image.tree({3: 3}), 2: image.tree({3: 3, last: 4})}, chunk_sectors=sectors)
    assert whole(ThinMetadata(image, metadata_snapshot=False), 1, 2) == [(last, 1, DATA)]

"""Proof that every flush is needed: without it a power cut loses something that is seen, and with it nothing."""

from __future__ import annotations

from pathlib import Path

import flush_sites
import pytest
from flushes import FLUSHES, Proof

from tests.contract.flushes.small import SMALL, Ground
from tests.contract.flushes.stories import LOSSES, STORIES, Stage, find_loss

PROOFS = {name: entry for name, entry in FLUSHES.items() if isinstance(entry, Proof)}
TOLD = sorted({(proof.kind, proof.story, proof.partly) for proof in PROOFS.values()})
SITES = flush_sites.sites()


def told(
    proof: Proof, lines: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, int]:
    """The loss that is seen, or "", and how many flushes were left out."""
    if proof.kind:
        stage = Stage(proof.kind, tmp_path, monkeypatch)
        try:
            return find_loss(stage, STORIES[proof.story](), lines, partly=proof.partly)
        finally:
            stage.power.close()
    ground = Ground(tmp_path, monkeypatch, lines)
    try:
        SMALL[proof.story](ground)
    except LOSSES as loss:
        return repr(loss), ground.hits
    finally:
        ground.power.close()
    return "", ground.hits


@pytest.mark.parametrize(("kind", "story", "partly"), TOLD)
def test_with_all_flushes_nothing_is_lost(
    kind: str, story: str, partly: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(Proof(story, kind, partly), (), tmp_path, monkeypatch) == ("", 0)


@pytest.mark.parametrize("name", sorted(PROOFS))
def test_without_it_something_is_lost(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = PROOFS[name]
    lines = tuple(line for one in (name, *proof.also) for line in SITES[one].lines)
    loss, left_out = told(proof, lines, tmp_path, monkeypatch)
    assert left_out > 0, "the story does not come by it"
    assert loss, f"left out {left_out} times, and nothing is lost"

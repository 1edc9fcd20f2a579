"""Runs on a node, by its Python and with the installed product: what the points of a store hold.

``python3 points_on_node.py KIND:PATH DOMAIN`` prints as JSON the id of each point that is offered, and the SHA-256 of
its only disk as the product reads it.
"""

from __future__ import annotations

import hashlib
import json
import sys

from thinsync_virt.endpoint.target.stores.directory import StoreDirectory
from thinsync_virt.endpoint.target.stores.opening import keeper_of
from thinsync_virt.endpoint.target.stores.store import offered
from thinsync_virt.model.targets import StoreTarget, TargetKind

PIECE = 1 << 20


def digests(kind: TargetKind, path: str, domain: str) -> dict[str, str]:
    keeper, found = keeper_of(kind), {}
    for folder in StoreDirectory(StoreTarget(kind, path)).domains():
        if folder.record.name != domain:
            continue
        for point in offered(folder):
            (disk,) = point.disks
            opened = keeper.read(folder, folder.chain(point, disk.target))
            whole = hashlib.sha256()
            try:
                for at in range(0, opened.size, PIECE):
                    whole.update(opened.read(at, min(PIECE, opened.size - at)))
            finally:
                opened.close()
            found[point.id] = whole.hexdigest()
    return found


if __name__ == "__main__":
    wanted, _, place = sys.argv[1].partition(":")
    print(json.dumps(digests(TargetKind(wanted), place, sys.argv[2])))

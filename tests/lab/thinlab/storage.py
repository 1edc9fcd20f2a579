"""Volume group and thin pool of a node."""

from __future__ import annotations

import json

from thinlab.node import Node
from thinlab.state import Settings

VG = "vg0"
POOL = "vg0/pool"


def ensure_pool(node: Node, settings: Settings) -> None:
    """Make vg0 on /dev/ubda and vg0/pool in it, at the first boot. Room is left in the group for pools of tests."""
    node.run(
        f"""set -e
        lvs {POOL} >/dev/null 2>&1 && exit 0
        vgs {VG} >/dev/null 2>&1 || {{ pvcreate -q -y /dev/ubda; vgcreate -q {VG} /dev/ubda; }}
        lvcreate -q -y --type thin-pool -n pool -L {settings.pool} --poolmetadatasize 64M \
            --chunksize {settings.chunk} {VG}
    """,
        timeout=180,
    )


def describe(node: Node) -> dict[str, str]:
    """Versions and use of the pool, for ``status``."""
    script = (
        f"uname -r; lvs --reportformat json -o data_percent,metadata_percent {POOL} | tr -d '\\n'; echo; "
        "virsh -q list --all --name | grep -c . ; virsh -q list --name | grep -c .; true"
    )
    lines = node.run(script, timeout=60).stdout.splitlines()
    try:
        pool = json.loads(lines[1])["report"][0]["lv"][0]
        use = f"data {pool['data_percent']} %, metadata {pool['metadata_percent']} %"
    except (ValueError, LookupError):
        use = "absent"
    return {
        "kernel": lines[0],
        "pool": use,
        "domains": f"{lines[2]} defined, {lines[3]} running" if len(lines) > 3 else "?",
    }

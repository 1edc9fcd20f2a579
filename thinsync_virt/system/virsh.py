"""Names of domains as ``virsh`` tells them: for the shell's completion, which may not wait for libvirt's bindings."""

from __future__ import annotations

from thinsync_virt.system.process import run

_TIMEOUT = 3.0


def domain_names() -> tuple[str, ...]:
    """All domains of this host, as virsh sorts them. Raises CommandError (no virsh, libvirt away or slow)."""
    said = run(["virsh", "--readonly", "--quiet", "list", "--all", "--name"], timeout=_TIMEOUT)
    return tuple(line.strip() for line in said.stdout.splitlines() if line.strip())

"""Ask libvirt whether it would start a planned replica, before anything is sent and without defining it.

Converting the definition to QEMU's command line goes through all of libvirt's own checks (0.1 to 0.6 s). Disks need
not exist, nothing is written.
"""

from __future__ import annotations

from thinsync_virt.errors import ThinsyncError, UnreachableError
from thinsync_virt.hypervisor.connection import Connection, error_number, translated
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan
from thinsync_virt.model.findings import Finding, Severity

# virterror.h: invalid argument, operation failed (no such firmware), XML error, unsupported configuration
_REFUSED = frozenset({8, 9, 27, 67})
_NO_SECRET = 49  # the plan has said so already


def preflight(connection: Connection, plan: ReplicaPlan) -> tuple[Finding, ...]:
    """Nothing when libvirt takes the definition, else one finding with its reason. Raises UnreachableError."""
    try:
        with translated("start such a domain here"):
            connection.raw.domainXMLToNative("qemu-argv", plan.xml, 0)
    except UnreachableError:
        raise
    except ThinsyncError as error:
        number = error_number(error)
        if number == _NO_SECRET:
            return ()
        severity = Severity.REFUSAL if number in _REFUSED else Severity.WARNING
        return (
            Finding(
                severity,
                f"domain {plan.name}",
                f"this host's libvirt {error}",
                "change what it names with virsh edit at the source, or bring libvirt and QEMU here up to the source's",
            ),
        )
    return ()

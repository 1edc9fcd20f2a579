"""What a guest keeps outside its disks, NVRAM and emulated TPM, and what therefore cannot travel yet."""

from __future__ import annotations

from thinsync_virt.hypervisor.markup import Element
from thinsync_virt.hypervisor.tpm import tpm_problem


def host_bound_state(root: Element) -> tuple[str, ...]:
    """Reasons, with remedies, why a domain's state is more than what is replicated. Empty: nothing of the kind."""
    problems = []
    if (problem := tpm_problem(root)) is not None:
        problems.append(f"{problem[0]}: {problem[1]}")
    for memory in root.iterfind("devices/memory"):
        if memory.get("model") in ("nvdimm", "virtio-pmem"):
            problems.append(
                f"has persistent memory ({memory.get('model')}) in a file of the host, which does not travel: "
                "move its data to a disk and remove the device"
            )
            break
    if (kind := _nvram_kind(root)) not in ("", "file"):
        problems.append(f"has its UEFI variables on a {kind} device: only files travel; use an NVRAM file")
    if (place := _other_place_of_variables(root)) is not None:
        problems.append(
            f"has its UEFI variables in {place}, which does not travel: give it read-only firmware of type pflash,"
            " with an NVRAM file"
        )
    return tuple(problems)


def _other_place_of_variables(root: Element) -> str | None:
    """Where they are when there is no NVRAM. Fresh ones in their place would hold neither boot entries nor keys."""
    if root.find("os/varstore") is not None:
        return "a variable store (element varstore)"
    written = root.find("os/loader[@type='pflash'][@readonly='no']") is not None
    return (
        "the firmware's own file (loader readonly='no')"
        if written and root.find("os/nvram") is None
        else None
    )


def _nvram_kind(root: Element) -> str:
    nvram = root.find("os/nvram")
    return "" if nvram is None else nvram.get("type", "file")

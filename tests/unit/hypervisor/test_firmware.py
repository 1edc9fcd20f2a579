"""UEFI: a build of this host that fits the guest's variables, or a refusal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.unit.hypervisor.samples import FACTS, OVMF, found, plan_for, text_of, with_files
from thinsync_virt.hypervisor.facts import FileFact, HostFacts
from thinsync_virt.hypervisor.markup import Element
from thinsync_virt.hypervisor.replica.plan import ReplicaPlan
from thinsync_virt.model.definition import BOOT
from thinsync_virt.model.findings import Severity

VARIABLES = b"v" * 540672
DISKS = {"sda": "/dev/vg1/a"}
SECURE = text_of("uefi")
PLAIN = SECURE.replace(" firmware='efi'", "").replace(" secure='yes'", "")
PLAIN = PLAIN[: PLAIN.index("<firmware>")] + PLAIN[PLAIN.index("</firmware>") + len("</firmware>") :]


def planned(
    text: str, facts: HostFacts = FACTS, nvram: bytes | None = VARIABLES
) -> tuple[ReplicaPlan, Element]:
    return plan_for(text, DISKS, facts=facts, parts={"nvram": nvram} if nvram is not None else {})


def test_a_secure_build_takes_the_place_of_a_secure_build() -> None:
    plan, root = planned(SECURE)
    loader, nvram = root.find("os/loader"), root.find("os/nvram")
    assert loader is not None
    assert nvram is not None
    assert loader.text == OVMF + "OVMF_CODE_4M.ms.fd"
    assert (loader.get("secure"), loader.get("type"), loader.get("readonly")) == ("yes", "pflash", "yes")
    assert nvram.get("template") == OVMF + "OVMF_VARS_4M.ms.fd"
    assert root.find("os/firmware") is None
    assert root.find("os[@firmware]") is None, "explicit: no selection that could choose another build"
    assert not found(plan, Severity.REFUSAL)


def test_a_plain_build_takes_the_place_of_a_plain_build() -> None:
    _, root = planned(PLAIN)
    assert root.findtext("os/loader") == OVMF + "OVMF_CODE_4M.fd"


def test_the_same_file_is_used_when_it_is_here() -> None:
    path = "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd"
    _plan, root = planned(SECURE, with_files(FACTS, file=[path]))
    assert root.findtext("os/loader") == path
    nvram = root.find("os/nvram")
    assert nvram is not None
    assert nvram.get("template") is None, "the template is not here"


def test_the_template_of_the_same_build_is_found() -> None:
    text = PLAIN.replace("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", OVMF + "OVMF_CODE_4M.fd")
    _, root = planned(text, with_files(FACTS, file=[OVMF + "OVMF_CODE_4M.fd"]))
    nvram = root.find("os/nvram")
    assert nvram is not None
    assert nvram.get("template") == OVMF + "OVMF_VARS_4M.fd"


def test_variables_of_another_size_fit_no_build() -> None:
    plan, _ = planned(SECURE, nvram=b"v" * 131072)
    assert "apt install ovmf" in found(plan, Severity.REFUSAL)["firmware"].hint


def test_no_build_for_the_machine() -> None:
    plan, _ = planned(SECURE, replace(FACTS, firmwares=()))
    assert "firmware" in found(plan, Severity.REFUSAL)


def test_the_variables_go_to_a_file_of_their_point() -> None:
    plan, root = planned(SECURE)
    assert plan.files == ((root.findtext("os/nvram"), VARIABLES),)
    assert "01234567_VARS.fd" in plan.files[0][0]


def test_a_guest_that_never_started_has_none_yet() -> None:
    plan, root = planned(SECURE, nvram=None)
    assert plan.files == ()
    assert root.findtext("os/nvram")
    assert "UEFI variables" in found(plan, Severity.INFO)
    facts = with_files(replace(FACTS, firmwares=()), file=["/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd"])
    plan, _ = planned(SECURE, facts, nvram=None)
    assert "UEFI variables" in found(plan, Severity.REFUSAL)


def test_a_path_in_a_source_element_becomes_plain() -> None:
    text = SECURE.replace(
        ">/var/lib/libvirt/qemu/nvram/win01_VARS.fd</nvram>",
        " type='file'><source file='/var/lib/libvirt/qemu/nvram/win01_VARS.fd'/></nvram>",
    )
    _, root = planned(text)
    nvram = root.find("os/nvram")
    assert nvram is not None
    assert len(nvram) == 0
    assert nvram.get("type") is None
    assert (nvram.text or "").endswith("_VARS.fd")


def test_qcow2_images_need_a_libvirt_that_knows_them() -> None:
    text = SECURE.replace("<loader ", "<loader format='qcow2' ").replace("<nvram ", "<nvram format='qcow2' ")
    path = "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd"
    plan, _ = planned(text, with_files(FACTS, file=[path]))
    assert {"firmware", "UEFI variables"} <= set(found(plan, Severity.REFUSAL))
    plan, _ = planned(text, with_files(replace(FACTS, libvirt_version=11_000_000), file=[path]))
    assert not found(plan, Severity.REFUSAL)


def test_selection_without_wishes_is_libvirts_own() -> None:
    """``<os firmware='efi'>`` alone: libvirt takes the first build that fits the machine."""
    start, end = SECURE.index("<firmware>"), SECURE.index("</os>")
    plan, root = planned(SECURE[:start] + SECURE[end:])
    assert root.findtext("os/loader") == OVMF + "OVMF_CODE_4M.ms.fd"
    assert not found(plan, Severity.REFUSAL)


def test_a_build_of_the_operators_own_must_be_equal() -> None:
    path = "/opt/firmware/code.fd"
    text = PLAIN.replace("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", path)
    entry = [{"role": "loader", "path": path, "size": 1, "sha256": "a" * 64}]
    parts = {"nvram": VARIABLES, BOOT: json.dumps(entry).encode()}
    for digest, expected in (("a" * 64, path), ("b" * 64, OVMF + "OVMF_CODE_4M.fd")):
        facts = replace(FACTS, files={**FACTS.files, path: FileFact("file", 1, digest)})
        _, root = plan_for(text, DISKS, facts=facts, parts=parts)
        assert root.findtext("os/loader") == expected


def test_a_rom_image_must_be_here() -> None:
    text = (
        PLAIN[: PLAIN.index("<loader")]
        + "<loader type='rom'>/usr/share/seabios/bios.bin</loader>"
        + PLAIN[PLAIN.index("</os>") :]
    )
    plan, _ = planned(text, nvram=None)
    assert "firmware" in found(plan, Severity.REFUSAL)
    plan, root = planned(text, with_files(FACTS, file=["/usr/share/seabios/bios.bin"]), nvram=None)
    assert not found(plan, Severity.REFUSAL)
    assert root.find("os/nvram") is None


@pytest.mark.parametrize(
    "loader",
    [
        "<loader readonly='no' type='pflash'>/srv/OVMF.fd</loader>",
        "<loader type='rom'>/usr/share/OVMF/OVMF.qemuvars.fd</loader><varstore path='/var/lib/libvirt/a.json'/>",
    ],
)
def test_variables_that_are_in_no_nvram_are_not_made_anew(loader: str) -> None:
    """Keys and boot entries would be gone, and only a remark said so."""
    start = PLAIN.index("<loader")
    text = PLAIN[:start] + loader + PLAIN[PLAIN.index("</os>") :]
    plan, _ = planned(text, with_files(FACTS, file=["/usr/share/OVMF/OVMF.qemuvars.fd"]), nvram=None)
    assert "UEFI variables" in found(plan, Severity.REFUSAL)["domain win01"].message


def test_firmware_in_a_rom_has_no_variables() -> None:
    """Guests that AMD's or Intel's processors protect have such; libvirt chose it, and keeps no NVRAM."""
    start = SECURE.index("<firmware>")
    path = "/usr/share/OVMF/OVMF.tdx.fd"
    text = SECURE[:start] + f"<loader type='rom'>{path}</loader>" + SECURE[SECURE.index("</os>") :]
    plan, root = planned(text, with_files(FACTS, file=[path]), nvram=None)
    assert not found(plan, Severity.REFUSAL)
    assert root.find("os/nvram") is None
    loader = root.find("os/loader")
    assert loader is not None and (loader.text, loader.get("type")) == (path, "rom")

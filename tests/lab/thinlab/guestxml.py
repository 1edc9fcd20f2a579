"""The definition of a lab guest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from thinlab.errors import LabError
from thinlab.guestimage import PLACE

FILE_SYSTEMS = ("ext4", "xfs", "raw")
AGENTS = ("yes", "no", "silent")
OVMF_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
OVMF_VARS = "/usr/share/OVMF/OVMF_VARS_4M.fd"


@dataclass(frozen=True)
class Guest:
    """A guest to make. ``fs`` is one kind for all disks, or one per disk; ``memory`` is in MiB."""

    name: str
    disks: int = 1
    size: str = "256M"
    fs: tuple[str, ...] = ("ext4",)
    agent: str = "yes"
    uefi: bool = False
    tpm: bool = False
    machine: str = "pc"
    cache: str = "none"
    memory: int = 192
    pool: str = "vg0/pool"
    net: bool = False
    pace: int = 20

    def __post_init__(self) -> None:
        if len(self.fs) not in (1, self.disks) or any(kind not in FILE_SYSTEMS for kind in self.fs):
            raise LabError(
                f"--fs {','.join(self.fs)} does not fit {self.disks} disks",
                f"one of {', '.join(FILE_SYSTEMS)}, or one per disk with commas between",
            )
        if self.agent not in AGENTS:
            raise LabError(f"--agent {self.agent}: not known", f"one of {', '.join(AGENTS)}")
        if not 1 <= self.disks <= 26:
            raise LabError(f"--disks {self.disks}: 1 to 26")

    @property
    def group(self) -> str:
        return self.pool.partition("/")[0]

    def volumes(self) -> list[tuple[str, str, str]]:
        """(target, VG/LV, file system) of each disk."""
        kinds = self.fs if len(self.fs) == self.disks else self.fs * self.disks
        targets = [f"vd{chr(ord('a') + index)}" for index in range(self.disks)]
        return [
            (target, f"{self.group}/{self.name}-{target}", kind)
            for target, kind in zip(targets, kinds, strict=True)
        ]


def mac(name: str) -> str:
    tail = hashlib.sha256(name.encode()).hexdigest()
    return f"52:54:00:{tail[:2]}:{tail[2:4]}:{tail[4:6]}"


def definition(guest: Guest) -> str:
    """The domain's XML: nothing in it that is not needed, since each device costs time under emulation."""
    command_line = "console=ttyS0 quiet nokaslr mitigations=off lpj=4000000 tsc=reliable"
    command_line += f" lab.name={guest.name} lab.pace={guest.pace}"
    if guest.agent == "silent":
        command_line += " lab.agent=silent"
    firmware = (
        f"<loader readonly='yes' type='pflash'>{OVMF_CODE}</loader>"
        f"<nvram template='{OVMF_VARS}'>/var/lib/libvirt/qemu/nvram/{escape(guest.name)}_VARS.fd</nvram>"
        if guest.uefi
        else ""
    )
    disks = "".join(
        f"""
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw' cache={quoteattr(guest.cache)} discard='unmap'/>
      <source dev={quoteattr(f"/dev/{volume}")}/>
      <target dev='{target}' bus='virtio'/>
    </disk>"""
        for target, volume, _ in guest.volumes()
    )
    agent = (
        ""
        if guest.agent == "no"
        else """
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"""
    )
    tpm = (
        """
    <tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"""
        if guest.tpm
        else ""
    )
    interface = (
        f"""
    <interface type='network'>
      <mac address='{mac(guest.name)}'/><source network='default'/><model type='virtio'/>
    </interface>"""
        if guest.net
        else ""
    )
    return f"""<domain type='qemu'>
  <name>{escape(guest.name)}</name>
  <memory unit='MiB'>{guest.memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine={quoteattr(guest.machine)}>hvm</type>{firmware}
    <kernel>/{PLACE}/vmlinuz</kernel>
    <initrd>/{PLACE}/initrd</initrd>
    <cmdline>{escape(command_line)}</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>{disks}{interface}{tpm}
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{console_path(guest.name)}' append='on'/></serial>{agent}
    <channel type='unix'><target type='virtio' name='lab.control'/></channel>
    <video><model type='none'/></video>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def console_path(name: str) -> str:
    """The guest's serial console, a file of the node."""
    return f"/var/log/thinlab/{name}.console"

"""Replicate running virtual machines between hosts on plain LVM thin pools."""

__version__ = "0.1.0"

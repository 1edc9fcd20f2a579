"""Hypervisor drivers: inspect, define, freeze; one Protocol, several drivers."""

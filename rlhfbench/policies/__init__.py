"""Policies, one file each, behind `rlhfbench.types.Policy`."""

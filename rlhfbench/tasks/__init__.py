"""Worlds, one file each, behind `rlhfbench.types.Task`."""

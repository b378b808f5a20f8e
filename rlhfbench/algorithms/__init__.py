"""Algorithms, one file each: a frozen `Config` and a generator that reads like the paper."""

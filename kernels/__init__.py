"""Numba kernels for preference optimisation; import the modules: ``from kernels import categorical``."""

__version__ = "0.1.0"

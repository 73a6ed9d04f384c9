"""Compiling, reading and judging AMD code on a machine that has no AMD GPU (docs/amd.md)."""

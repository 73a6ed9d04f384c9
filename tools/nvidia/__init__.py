"""Runs what the kernels are on NVIDIA on the host, a lane at a time."""

from .simulator import SimulationError, Simulator

__all__ = ["SimulationError", "Simulator"]

"""What a compute unit of each AMD architecture can hold and do.

Register files and allocation granules are those of LLVM's AMDGPU target (`getTotalNumVGPRs`,
`getVGPRAllocGranule`, `getMaxWavesPerEU`), cross-checked in the tests against the occupancy that
the compiler itself prints; LDS sizes and SIMD counts are from AMD's ISA documents.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """One `gfx` target.

    vgprs: registers per lane that one SIMD shares among its waves; granule: they are handed out
    in multiples of it. lds: bytes that the waves of one workgroup processor (RDNA) or compute unit
    (CDNA) share; lds_simds: how many SIMDs that is. sgprs: likewise per SIMD, 0 where every wave
    has a full set of its own. bytes_per_clock: what memory delivers to a compute unit in a cycle,
    on the card that the budget has in mind (0: none).
    """

    name: str
    wave: int
    vgprs: int
    granule: int
    max_waves: int
    lds: int
    lds_simds: int
    simds_per_cu: int
    dot: bool  # an integer dot product of 4 x 8 bits
    matrix: bool  # WMMA or MFMA
    sgprs: int = 0
    emulator: str | None = None  # the instruction set of the emulator that runs its code
    bytes_per_clock: float = 0.0

    def has(self, kind: str) -> bool:
        """Whether the hardware has instructions of a class (see analysis.CLASSES)."""
        return {"dot": self.dot, "matrix": self.matrix}.get(kind, True)

    def occupancy(self, vgprs: int, sgprs: int, lds: int, threads: int) -> int:
        """Waves that one SIMD holds at once, of a kernel with these needs and this block size."""
        waves = min(self.max_waves, self.vgprs // _round_up(max(vgprs, 1), self.granule))
        if self.sgprs:
            waves = min(waves, self.sgprs // _round_up(max(sgprs, 1), 16))
        if lds:
            block_waves = -(-threads // self.wave)
            waves = min(waves, self.lds // _round_up(lds, 512) * block_waves // self.lds_simds)
        return waves


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _rdna(
    name: str, vgprs: int, granule: int, matrix: bool, emulator: str | None, clock: float = 0.0
) -> Architecture:
    lds = 128 << 10
    return Architecture(name, 32, vgprs, granule, 16, lds, 4, 2, True, matrix, 0, emulator, clock)


def _cdna(name: str) -> Architecture:
    return Architecture(name, 64, 512, 8, 8, 64 << 10, 4, 4, True, True, 800, "cdna")


# 800 GB/s for 84 compute units at 2.4 GHz, by AMD's data sheet.
RX_7900_XT = 800e9 / 84 / 2.4e9

ARCHITECTURES = {
    a.name: a
    for a in (
        _rdna("gfx1030", 1024, 16, False, None),
        _rdna("gfx1100", 1536, 24, True, "rdna3", RX_7900_XT),
        _rdna("gfx1101", 1536, 24, True, "rdna3"),
        _rdna("gfx1102", 1024, 16, True, "rdna3"),
        _rdna("gfx1151", 1536, 24, True, "rdna3"),
        _rdna("gfx1200", 1536, 24, True, "rdna4"),
        _rdna("gfx1201", 1536, 24, True, "rdna4"),
        _cdna("gfx90a"),
        _cdna("gfx942"),
    )
}
# The architectures that every test run compiles for: one per generation.
CHECKED = ("gfx1030", "gfx1100", "gfx1151", "gfx1201", "gfx90a", "gfx942")

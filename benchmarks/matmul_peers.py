"""Figures of others that docs/performance.md shows beside ours, where the card is the same."""

from __future__ import annotations

# Measured by us in another run: its prebuilt ops up to 8 rows and above, graph replay, weights from
# memory, bf16 activations.
PEER = "vllm-gguf-plugin 0.0.3 on an H200"
PEER_CARD = "H200"
PEER_COLUMNS = (  # n, k, rows
    (4096, 4096, 1),
    (28672, 4096, 1),
    (128256, 4096, 1),
    (28672, 4096, 8),
    (28672, 4096, 32),
    (28672, 4096, 512),
    (28672, 4096, 2048),
)
PEER_FIGURES: dict[str, tuple[float | None, ...]] = {  # microseconds
    "Q4_0": (7.7, 33.5, 129, 225, 289, 4395, 18003),
    "Q8_0": (11.6, 56.5, 228, 401, 446, 6847, 28181),
    "Q2_K": (9.3, 38.3, 148, 234, 297, 4549, 18124),
    "Q3_K": (12.8, 61.2, 244, 433, 919, 14191, 56684),
    "Q4_K": (8.6, 36.3, 142, 247, 403, 6181, 24652),
    "Q5_K": (9.6, 40.8, 160, 278, 519, 7957, 31751),
    "Q6_K": (12.4, 60.9, 246, 433, 520, 7901, 32601),
    "IQ4_XS": (10.3, 42.8, 168, 294, None, None, None),
    "IQ3_S": (9.6, 39.5, 154, 269, None, None, None),
    "IQ2_XS": (12.4, 59.9, 249, 440, None, None, None),
}

"""llama.cpp's mixes: which matrices of a file get another type than the rest.

The rules are facts about the files that llama.cpp writes under these names (`llama-quant.cpp` of
llama-cpp-python 0.3.36), written as data. Of a mix's rules the first that fits a matrix decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Place:
    """What rules ask about a matrix.

    Attributes:
        part: what it does: "attn_v" (also fused with query and key), "ffn_down", ...
        layer: its layer; for "attn_v" counted over the layers that have one.
        layers: how many there are.
        gqa: how many query heads share a key head.
        experts: how many experts the model has; 0 if none.
        seventy_b: the model is a Llama or Qwen of 80 layers with shared key heads.
        imatrix: there is an importance matrix.
    """

    part: str
    layer: int
    layers: int
    gqa: int
    experts: int
    seventy_b: bool
    imatrix: bool


When = Callable[[Place], bool]


@dataclass(frozen=True)
class Rule:
    """Matrices of `part` (and where `when` holds) get `type`."""

    part: str
    type: str
    when: When = lambda place: True


@dataclass(frozen=True)
class Mix:
    """A mix: the type of most matrices, the number llama.cpp gives such files, the exceptions.

    Attributes:
        type: of matrices that no rule fits.
        file_type: `general.file_type`.
        rules: for matrices of layers.
        output: the type of the output matrix, where rows allow it (else Q8_0).
        embedding: the type of the token embedding, where it is not the output matrix too.
    """

    type: str
    file_type: int
    rules: tuple[Rule, ...] = ()
    output: str = "Q6_K"
    embedding: str | None = None


def _first(parts: int) -> When:
    """The first n-th of the layers."""
    return lambda place: place.layer < place.layers // parts


def _below(count: int) -> When:
    return lambda place: place.layer < count


def _more_bits(place: Place) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = place.layers // 8
    last = place.layer >= 7 * place.layers // 8
    return place.layer < eighth or last or (place.layer - eighth) % 3 == 2


def _shared_heads(place: Place) -> bool:
    return place.gqa >= 4


def _eight_experts(place: Place) -> bool:
    return place.experts == 8


def _seventy_b(place: Place) -> bool:
    return place.seventy_b


# Key heads that many query heads share are small, and 8 experts' attention is small beside them.
EXPERTS_KV = (Rule("attn_v", "Q8_0", _eight_experts), Rule("attn_k", "Q8_0", _eight_experts))
EXPERTS = (*EXPERTS_KV, Rule("attn_output", "Q5_K", _eight_experts))
IQ4_RULES = (
    *EXPERTS,
    Rule("attn_v", "Q5_K", _shared_heads),
    Rule("ffn_down", "Q5_K", lambda p: _first(8)(p) and not p.imatrix),
)


def _not_all_of_4_bits(five_bit_type: str) -> tuple[Rule, ...]:
    """4_0 and 5_0 keep an offset in the first layers' largest values, if importance is known."""
    return (
        *EXPERTS_KV,
        Rule("ffn_down", five_bit_type, lambda p: _first(8)(p) and p.imatrix),
    )


MIXES: Mapping[str, Mix] = MappingProxyType(
    {
        "F32": Mix("F32", 0, output="F32"),
        "F16": Mix("F16", 1, output="F16"),
        "BF16": Mix("BF16", 32, output="BF16"),
        "Q8_0": Mix("Q8_0", 7, EXPERTS_KV, output="Q8_0"),
        "Q4_0": Mix("Q4_0", 2, _not_all_of_4_bits("Q4_1")),
        "Q4_1": Mix("Q4_1", 3, EXPERTS_KV),
        "Q5_0": Mix("Q5_0", 8, _not_all_of_4_bits("Q5_1")),
        "Q5_1": Mix("Q5_1", 9, EXPERTS_KV),
        "Q2_K": Mix(
            "Q2_K",
            10,
            (
                *EXPERTS,
                Rule("attn_v", "Q4_K", _shared_heads),
                Rule("attn_v", "Q5_K", _seventy_b),
                Rule("attn_v", "Q3_K"),
                Rule("ffn_down", "Q3_K"),
                Rule("attn_output", "Q3_K"),
            ),
        ),
        "Q2_K_S": Mix(
            "Q2_K",
            21,
            (
                *EXPERTS_KV,
                Rule("attn_v", "Q4_K", _shared_heads),
                Rule("ffn_down", "Q4_K", _first(8)),
            ),
        ),
        "Q3_K_S": Mix("Q3_K", 11, (*EXPERTS, Rule("attn_v", "Q5_K", _seventy_b))),
        "Q3_K_M": Mix(
            "Q3_K",
            12,
            (
                *EXPERTS,
                Rule("attn_v", "Q5_K", lambda p: _below(2)(p) or p.seventy_b),
                Rule("attn_v", "Q4_K"),
                Rule("ffn_down", "Q5_K", _first(16)),
                Rule("ffn_down", "Q4_K"),
                Rule("attn_output", "Q4_K"),
            ),
        ),
        "Q3_K_L": Mix(
            "Q3_K",
            13,
            (
                *EXPERTS_KV,
                Rule("attn_v", "Q5_K"),
                Rule("ffn_down", "Q5_K"),
                Rule("attn_output", "Q5_K", lambda p: not _eight_experts(p)),
            ),
        ),
        "Q4_K_S": Mix(
            "Q4_K",
            14,
            (
                *EXPERTS,
                Rule("attn_v", "Q5_K", lambda p: _below(4)(p) or p.seventy_b),
                Rule("ffn_down", "Q5_K", _first(8)),
            ),
        ),
        "Q4_K_M": Mix(
            "Q4_K",
            15,
            (
                *EXPERTS,
                Rule("attn_v", "Q6_K", _more_bits),
                Rule("attn_v", "Q5_K", _seventy_b),
                Rule("ffn_down", "Q6_K", _more_bits),
            ),
        ),
        "Q5_K_S": Mix("Q5_K", 16, EXPERTS_KV),
        "Q5_K_M": Mix(
            "Q5_K",
            17,
            (
                *EXPERTS_KV,
                Rule("attn_v", "Q6_K", _more_bits),
                Rule("ffn_down", "Q6_K", _more_bits),
            ),
        ),
        "Q6_K": Mix("Q6_K", 18, EXPERTS_KV),
        "IQ4_NL": Mix("IQ4_NL", 25, IQ4_RULES),
        "IQ4_XS": Mix("IQ4_XS", 30, IQ4_RULES),
        "TQ1_0": Mix("TQ1_0", 36, EXPERTS_KV, embedding="Q4_K"),
        "TQ2_0": Mix("TQ2_0", 37, EXPERTS_KV, embedding="Q4_K"),
        "Q1_0": Mix("Q1_0", 40, EXPERTS_KV),
    }
)
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
# Files of one type that llama.cpp has a number for, but no mix.
PURE_FILE_TYPES = {"MXFP4": 38, "NVFP4": 39}

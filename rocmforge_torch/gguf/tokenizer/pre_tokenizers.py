"""How each ``tokenizer.ggml.pre`` cuts a text into words before byte-pair encoding.

The names are llama.cpp's (``llama-vocab.cpp``). The expressions are the ones of the models' own
tokenizers, in the syntax of the Oniguruma engine inside ``tokenizers``; where llama.cpp rewrote one
for the engine of the C++ library, the original stands here. Each expression cuts the pieces that
the one before it left; what it does not match stays a piece.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way to cut a text.

    Attributes:
        splits: the expressions, applied in order.
        ignore_merges: a word that is itself a token is taken whole, whatever its merges say.
        add_bos: whether the model expects BOS where the file does not say.
        byte_level: words are written with GPT-2's letters for bytes; otherwise they stay text, with
            ``▁`` for a space and ``<0x..>`` for the bytes of unknown characters.
    """

    splits: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    byte_level: bool = True


CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s+(?!\S)|\s+"
LINES = r"\s*[\r\n]+|" + SPACES
SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
DIGIT = r"\p{N}"
THREE_DIGITS = r"\p{N}{1,3}"
# Groups of three counted from the right: one or two digits first, where the count asks for it.
GROUPED_DIGITS = r"(?<!\p{N})\p{N}{1,2}(?=(?:\p{N}{3})*+(?!\p{N}))|\p{N}{3}"
NEWLINES = r"[^\n]+|[\n]+"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + SPACES
LLAMA3 = f"{CONTRACTION}|{WORD}|{THREE_DIGITS}|{SYMBOLS}|{LINES}"
QWEN2 = f"{CONTRACTION}|{WORD}|{DIGIT}|{SYMBOLS}|{LINES}"

# Words that begin or end with capitals: "camelCase" is "camel", "Case".
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LOWER_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+"
UPPER_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
SYMBOLS_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
CASED_WORD = f"{LOWER_WORD}{CONTRACTION}?|{UPPER_WORD}{CONTRACTION}?"
GPT4O = f"{CASED_WORD}|{THREE_DIGITS}|{SYMBOLS_SLASH}|{LINES}"

NOT_HAN = r"&&[^\p{Han}]]"
KIMI_WORD = CASED_WORD.replace(UPPER, UPPER[:-1] + NOT_HAN).replace(LOWER, LOWER[:-1] + NOT_HAN)

CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
CJK_HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
    "\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af"
    "\u1100-\u11ff]+"
)
CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
DEEPSEEK_WORD = rf"{ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
DEEPSEEK3 = rf"{DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{LINES}"
BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

# Names that share a pre-tokenizer -> what they share.
FAMILIES: tuple[tuple[str, PreTokenizer], ...] = (
    (
        "default",
        PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    ),
    (
        "gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe "
        "gigachat a.x-4.0 mellum modern-bert exaone4 mpt olmo jais trillion granite-docling",
        PreTokenizer((GPT2,)),
    ),
    (
        "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
        PreTokenizer((DIGIT, GPT2)),
    ),
    (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        PreTokenizer((LLAMA3,), ignore_merges=True, add_bos=True),
    ),
    ("dbrx smaug-bpe chatglm-bpe", PreTokenizer((LLAMA3,))),
    ("glm4 glm5", PreTokenizer((LLAMA3,), ignore_merges=True)),
    (
        "minicpm5",
        PreTokenizer(
            (THREE_DIGITS, rf"{CONTRACTION}|{WORD}|\p{{N}}+|{SYMBOLS}|{LINES}"), ignore_merges=True
        ),
    ),
    (
        "jais-2",
        PreTokenizer(
            (
                rf"{CONTRACTION}|{WORD}|{THREE_DIGITS}|{SYMBOLS}|\s*[\r\n]+|"
                + "".join(rf"\s{{{n}}}(?!\S)|" for n in (512, 256, 128, 64, 32, 16, 8, 4))
                + r"\s{1,2}(?!\S)|\s{1}",
            )
        ),
    ),
    (
        "qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 hunyuan solar-open megrez grok-2",
        PreTokenizer((QWEN2,)),
    ),
    (
        "qwen35",
        PreTokenizer(
            (
                rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|{DIGIT}|"
                rf" ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{LINES}",
            )
        ),
    ),
    ("ufakzeka", PreTokenizer((f"{WORD}|{DIGIT}|{SYMBOLS}|{LINES}",))),
    ("laguna", PreTokenizer((NEWLINES, QWEN2))),
    (
        "seed-coder",
        PreTokenizer((rf"{CONTRACTION}|{WORD}|{DIGIT}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{LINES}",)),
    ),
    (
        "bailingmoe bailingmoe2 llada-moe",
        PreTokenizer(
            (
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}|"
                r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|" + SPACES,
            )
        ),
    ),
    (
        "exaone-moe",
        PreTokenizer(
            (
                rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|"
                rf"{DIGIT}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{SPACES}",
            )
        ),
    ),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", PreTokenizer((GPT4O,))),
    ("granite-embed-multi-97m", PreTokenizer((GPT4O,), ignore_merges=True)),
    ("tiny_aya cohere2moe", PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O))),
    (
        "tekken",
        PreTokenizer(
            (f"{LOWER_WORD}|{UPPER_WORD}|{DIGIT}|{SYMBOLS_SLASH}|{LINES}",),
            ignore_merges=True,
            add_bos=True,
        ),
    ),
    (
        "kimi-k2",
        PreTokenizer((rf"[\p{{Han}}]+|{KIMI_WORD}|{THREE_DIGITS}|{SYMBOLS}|{LINES}",)),
    ),
    ("superbpe", PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))"))),
    (
        "deepseek-llm",
        PreTokenizer(
            (
                r"[\r\n]",
                rf"\s?[{CASED_LETTERS}]+",
                "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                r"\s+$",
                CJK_HANGUL,
                r"\p{N}+",
            )
        ),
    ),
    (
        "deepseek-coder",
        PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK_HANGUL, DIGIT)),
    ),
    (
        "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
        PreTokenizer((THREE_DIGITS, CJK, DEEPSEEK3)),
    ),
    (
        "spark2_5",
        PreTokenizer(
            (THREE_DIGITS, CJK, rf"{DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|{SPACES}", DIGIT)
        ),
    ),
    (
        "youtu",
        PreTokenizer(
            (
                "[\uac00-\ud7a3\u3131-\u318e]+|"
                "[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f"
                f"\ufe30-\ufe4f]+|[\u3105-\u312f]+|{CJK}",
                f"{CASED_WORD}|{DIGIT}|{SYMBOLS_SLASH}|{LINES}",
            ),
            ignore_merges=True,
        ),
    ),
    ("afmoe", PreTokenizer((GROUPED_DIGITS, ASIAN, DEEPSEEK3))),
    (
        "falcon",
        PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    ),
    (
        "chameleon",
        PreTokenizer(
            (
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                r"([\t\n]|    |  )",
                DIGIT,
                r"[\p{P}!-/:-@\[-`{-~]",
                GPT2,
            ),
            add_bos=True,
        ),
    ),
    ("poro-chat bloom gpt3-finnish", PreTokenizer((BLOOM,))),
    ("viking", PreTokenizer((BLOOM, DIGIT))),
    (
        "gemma4 granite-embed-multi-311m",
        PreTokenizer((NEWLINES,), add_bos=True, byte_level=False),
    ),
    ("sarvam-moe", PreTokenizer((NEWLINES,), byte_level=False)),
)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    name: pre_tokenizer for names, pre_tokenizer in FAMILIES for name in names.split()
}

"""Feeds the GGUF loader broken files; anything but a load or a GGUFError is a bug.

usage: python -m tools.fuzz_gguf [--inputs N] [--seed S] [--first I] [--jobs J]

Input number i of a seed is always the same bytes: a random file whose fields are then set to
awkward numbers (structure), whose bytes are then overwritten, cut or doubled (mutation), or both,
or neither. A loaded file is used: every value is decoded, every tensor made. A bug is written to
``fuzz-gguf-SEED-I.gguf`` and ends the run; ``--first I --inputs 1`` repeats it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from rocmforge_torch.gguf import GGUFError, GGUFModelFile
from rocmforge_torch.gguf.shard import open_buffer
from rocmforge_torch.quant_types import QUANT_TYPES
from tools.gguf_bytes import CODES, File, Tensor, Value

BATCH = 500
MAX_SECONDS = 1.0
AWKWARD = sorted(
    {
        (1 << bits) + step
        for bits in (0, 3, 5, 8, 15, 16, 20, 30, 31, 32, 60, 61, 62, 63, 64)
        for step in (-33, -32, -8, -4, -1, 0, 1, 8)
    }
)
WORDS = ("a", "", "é", "漢字", "🙂", "\0", "▁the", "x y", "<s>", "long" * 30)


def random_file(rng: random.Random) -> File:
    """A valid file: some numbers and arrays, perhaps a tokenizer, a few tensors of any type."""
    keys: list[tuple[Any, Value]] = [("general.architecture", ("str", "llama"))]
    alignment = rng.choice((8, 32, 32, 64))
    if alignment != 32 or rng.random() < 0.3:
        keys.append(("general.alignment", ("u32", alignment)))
    if rng.random() < 0.6:
        keys += tokenizer_keys(rng)
    keys += [(f"key.{i}", random_value(rng, 3)) for i in range(rng.randrange(6))]
    rng.shuffle(keys)
    tensors, data = [], bytearray()
    for index in range(rng.randrange(5)):
        row = rng.choice(list(QUANT_TYPES.values()))
        dims = [row.block_size * rng.randint(1, 2)]
        dims += [rng.randint(1, 3) for _ in range(rng.randrange(4))]
        tensors.append(Tensor(f"blk.{index}.weight", dims, row.id, len(data)))
        size = row.block_bytes
        for count in (dims[0] // row.block_size, *dims[1:]):
            size *= count
        data += bytes(size + -size % alignment)
    order, version = rng.choice("<<>"), rng.choice((2, 3, 3))
    return File(keys, tensors, bytes(data), order, version, padding=alignment)


def tokenizer_keys(rng: random.Random) -> list[tuple[Any, Value]]:
    """A vocabulary with everything that must fit it."""
    count = rng.randint(1, 6)
    tokens = [f"t{i}" for i in range(count)]
    keys: list[tuple[Any, Value]] = [
        ("tokenizer.ggml.model", ("str", rng.choice(("gpt2", "llama")))),
        ("tokenizer.ggml.tokens", ("arr", "str", tokens)),
        ("tokenizer.ggml.scores", ("arr", "f32", [-i for i in range(count)])),
        ("tokenizer.ggml.token_type", ("arr", "i32", [1] * count)),
        ("tokenizer.ggml.merges", ("arr", "str", ["a b", "ab c"])),
        ("tokenizer.ggml.bos_token_id", ("u32", rng.randrange(count))),
        ("tokenizer.ggml.add_bos_token", ("bool", rng.randrange(2))),
        ("tokenizer.chat_template", ("str", "{{ messages }}")),
        ("llama.vocab_size", ("u32", count)),
    ]
    return rng.sample(keys[2:], rng.randrange(len(keys) - 2)) + keys[:2]


def random_value(rng: random.Random, depth: int) -> Value:
    kind = rng.choice((*CODES, "str", "arr", "arr"))
    if kind == "str":
        return ("str", rng.choice(WORDS))
    if kind != "arr":
        return (kind, rng.randrange(2))
    element = rng.choice((*CODES, "str", "str", *(["arr"] if depth else [])))
    count = rng.randrange(5)
    if element == "arr":
        nested = [random_value(rng, depth - 1) for _ in range(count)]
        return ("arr", "arr", [item for item in nested if item[0] == "arr"])
    if element == "str":
        return ("arr", "str", [rng.choice(WORDS) for _ in range(count)])
    return ("arr", element, [rng.randrange(2) for _ in range(count)])


def break_structure(rng: random.Random, file: File) -> None:
    """Set a field or two of a file to a number it should not have."""
    for _ in range(rng.randint(1, 2)):
        target = rng.choice((break_header, break_key, break_tensor, break_tensor))
        target(rng, file)


def break_header(rng: random.Random, file: File) -> None:
    name = rng.choice(("num_keys", "num_tensors", "version", "data", "padding"))
    if name == "data":
        file.data = file.data[: rng.randrange(len(file.data) + 1)]
    elif name == "padding":
        file.padding = rng.choice((1, 8, 64))
    else:
        setattr(file, name, rng.choice(AWKWARD))


def break_key(rng: random.Random, file: File) -> None:
    index = rng.randrange(len(file.keys))
    name, value = file.keys[index]
    match rng.randrange(6):
        case 0:
            name = (b"key", rng.choice(AWKWARD))
        case 1:
            name = rng.choice(file.keys)[0]
        case 2:
            value = ("raw", rng.choice(AWKWARD) % 16, rng.randbytes(rng.randrange(20)))
        case 3 if value[0] in ("str", "arr"):
            value = (*value[: 2 if value[0] == "str" else 3], rng.choice(AWKWARD))
        case 4 if value[0] in CODES and value[0][0] != "f":
            value = (value[0], rng.choice(AWKWARD))
        case _:
            value = random_value(rng, 6)
    file.keys[index] = (name, value)


def break_tensor(rng: random.Random, file: File) -> None:
    if not file.tensors:
        return
    tensor = rng.choice(file.tensors)
    match rng.randrange(6):
        case 0:
            tensor.dims = [*tensor.dims]
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(AWKWARD)
        case 1:
            tensor.type = rng.choice((rng.randrange(45), rng.choice(AWKWARD)))
        case 2:
            tensor.offset = rng.choice(
                (tensor.offset + 32, tensor.offset - 32, rng.choice(AWKWARD))
            )
        case 3:
            tensor.num_dims = rng.choice(AWKWARD)
        case 4:
            tensor.name_length = rng.choice(AWKWARD)
        case _:
            tensor.name = rng.choice(file.tensors).name


def break_bytes(rng: random.Random, data: bytearray) -> bytearray:
    """Overwrite, cut, double or move some bytes, mostly of the header."""
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        at = rng.randrange(min(len(data), rng.choice((32, 600, len(data)))))
        match rng.randrange(7):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                number = (rng.choice(AWKWARD) % (1 << 64)).to_bytes(8, "little")
                data[at : at + 8] = number[: len(data) - at]
            case 3:
                number = (rng.choice(AWKWARD) % (1 << 32)).to_bytes(
                    4, rng.choice(("little", "big"))
                )
                data[at : at + 4] = number[: len(data) - at]
            case 4:
                del data[at : at + rng.randint(1, 16)]
            case 5:
                data[at:at] = data[at : at + rng.randint(1, 64)]
            case _:
                del data[rng.randrange(len(data)) :]
    return data


def make_input(seed: int, index: int) -> bytearray:
    """Input number ``index`` of ``seed``."""
    rng = random.Random(f"{seed}:{index}")
    file = random_file(rng)
    mode = rng.choices(("none", "structure", "bytes", "both"), (2, 8, 8, 2))[0]
    if mode in ("structure", "both"):
        break_structure(rng, file)
    data = file.pack()
    return break_bytes(rng, data) if mode in ("bytes", "both") else data


def probe(data: bytearray) -> str:
    """Load the bytes and use all there is: ``"loaded"`` or ``"refused"``; else it raises."""
    try:
        shard = open_buffer(data, "fuzz")
        model = GGUFModelFile(Path("fuzz"), [Path("fuzz")], [shard], torch.device("cpu"), None)
        for value in model.metadata.values():
            walk(value)
        assert model.vocab_size is None or model.vocab_size > 0
    except GGUFError as error:
        check_error(error, data)
        return "refused"
    for name in model.tensors:
        try:
            assert tuple(model.tensors[name].shape) == model.tensors.info(name).shape
        except GGUFError as error:  # a type without a big-endian layout
            check_error(error, data)
    return "loaded"


def walk(value: Any) -> int:
    """Look at every number and string of a value; how many there are."""
    if isinstance(value, tuple):
        return sum(map(walk, value))
    return len(list(value)) if hasattr(value, "__iter__") else 1


def check_error(error: GGUFError, data: bytearray) -> None:
    """Every refusal names its culprit and a byte of the file."""
    assert error.subject.split(" ")[0] in ("header", "key", "tensor"), error
    assert error.offset is not None, error
    assert 0 <= error.offset <= len(data), error


def run_batch(job: tuple[int, int, int]) -> tuple[Counter[str], float, str | None]:
    """Probe a range of inputs: the outcomes, the most processor time, the first bug's report."""
    seed, start, stop = job
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for index in range(start, stop):
        data = make_input(seed, index)
        before = time.process_time()  # a busy machine must not look like a slow parser
        try:
            outcomes[probe(data)] += 1
            seconds = time.process_time() - before
            if seconds > MAX_SECONDS:
                raise TimeoutError(f"took {seconds:.1f} s of processor time")
        except Exception:
            path = Path(f"fuzz-gguf-{seed}-{index}.gguf")
            path.write_bytes(data)
            return outcomes, slowest, f"input {index}, kept as {path}:\n{traceback.format_exc()}"
        slowest = max(slowest, seconds)
    return outcomes, slowest, None


def fuzz(inputs: int, seed: int, first: int = 0, jobs: int = 1) -> tuple[Counter[str], float]:
    """Probe ``inputs`` inputs; the outcomes and the most processor time one took, in seconds.

    Raises:
        RuntimeError: an input did something other than load or end in GGUFError.
    """
    stop = first + inputs
    batches = [(seed, i, min(i + BATCH, stop)) for i in range(first, stop, BATCH)]
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    pool = multiprocessing.Pool(jobs) if jobs > 1 else None
    results: Any = pool.imap(run_batch, batches) if pool else map(run_batch, batches)
    for found, longest, bug in tqdm(results, total=len(batches), unit="batch", disable=None):
        outcomes += found
        slowest = max(slowest, longest)
        if bug:
            raise RuntimeError(bug)
    if pool:
        pool.close()
    return outcomes, slowest


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        outcomes, slowest = fuzz(**vars(options))
    except RuntimeError as bug:
        print(bug, file=sys.stderr)
        return 1
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{options.inputs} inputs of seed {options.seed} in {seconds:.0f} s "
        f"({options.inputs / seconds:.0f}/s): {outcomes['refused']} refused, "
        f"{outcomes['loaded']} loaded, 0 bugs; slowest {slowest * 1e3:.1f} ms, "
        f"peak memory of this process {peak:.0f} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

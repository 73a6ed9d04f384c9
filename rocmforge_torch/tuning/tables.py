"""Tables of limits as files: one architecture each, the package's and the user's.

    {
      "architecture": "gfx1100",
      "device": "AMD Radeon RX 7900 XTX",
      "torch": "2.10.0+rocm7.1",
      "types": {
        "Q4_0": {"matvec": 2, "multirow": 16, "tile": 192},
        "Q4_K": {"matvec": 2, "multirow": 12, "tile": 128}
      }
    }

The user's are in `$ROCMFORGE_TUNING`, a folder, or `~/.config/rocmforge/tuning`
(`$XDG_CONFIG_HOME`). Types that no file names keep `DEFAULT`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..quant_types import QUANT_TYPES_BY_NAME
from .limits import MOST, Limits

VARIABLE = "ROCMFORGE_TUNING"
SHIPPED = Path(__file__).parent
TEXTS = ("architecture", "device", "torch")
FIELDS = tuple(asdict(MOST))


class TuningError(ValueError):
    """A file is no table of limits; the message is one sentence with the file and the field."""


@dataclass(frozen=True)
class Table:
    """The limits of an architecture, by names of types.

    Attributes:
        architecture: as compilers call it, e.g. gfx1100 or sm_90.
        device, torch: the card and the version that it was measured with.
    """

    architecture: str
    device: str
    torch: str
    types: Mapping[str, Limits] = field(default_factory=dict)


def user_file(architecture: str) -> Path:
    """Where a user's table for an architecture stands, or would."""
    folder = os.environ.get(VARIABLE)
    if folder:
        return Path(folder) / f"{architecture}.json"
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config, "rocmforge", "tuning", f"{architecture}.json")


def files(architecture: str) -> list[Path]:
    """The tables there are for an architecture; what a later one says counts."""
    shipped = SHIPPED / f"{architecture}.json"
    return [path for path in (shipped, user_file(architecture)) if path.exists()]


def limits_for(architecture: str) -> dict[str, Limits]:
    """What the files say of an architecture, by names of types.

    Raises:
        TuningError: one of them is no such table.
    """
    found: dict[str, Limits] = {}
    for path in files(architecture):
        found |= read(path, architecture).types
    return found


def read(path: Path, architecture: str) -> Table:
    """The table in a file, which must be for this architecture.

    Raises:
        TuningError: it is not, or no table.
        OSError: the file cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # bytes that are no text are a ValueError, too
        raise TuningError(f"{path}: not JSON: {error}") from error
    fields = _object(content, (*TEXTS, "types"), str(path))
    for name in TEXTS:
        if not isinstance(fields[name], str):
            raise TuningError(f"{path}: {name} must be a text, got {fields[name]!r}")
    if fields["architecture"] != architecture:
        raise TuningError(
            f"{path}: architecture is {fields['architecture']!r}, but the file is read for "
            f"{architecture}: every architecture needs measurements of its own"
        )
    if not isinstance(fields["types"], dict):
        raise TuningError(f"{path}: types must be an object, got {fields['types']!r}")
    types = {name: _limits(name, value, path) for name, value in fields["types"].items()}
    return Table(fields["architecture"], fields["device"], fields["torch"], types)


def write(path: Path, table: Table) -> None:
    """Put a table into a file, with the folders it needs; it appears when it is complete.

    Raises:
        OSError: it cannot be written.
    """
    lines = [f"  {json.dumps(name)}: {json.dumps(getattr(table, name))}," for name in TEXTS]
    rows = [f"    {json.dumps(name)}: {json.dumps(asdict(v))}" for name, v in table.types.items()]
    text = "\n".join(["{", *lines, '  "types": {', ",\n".join(rows), "  }", "}\n"])
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)


def _limits(name: str, value: Any, path: Path) -> Limits:
    where = f"{path}: types.{name}"
    row = QUANT_TYPES_BY_NAME.get(name)
    if row is None or not row.is_quantized:
        raise TuningError(f"{where}: no quantization type has this name")
    numbers = _object(value, FIELDS, where)
    least = 0
    for key, most in asdict(MOST).items():
        number = numbers[key]
        if type(number) is not int or not least <= number <= most:
            raise TuningError(
                f"{where}.{key} must be a whole number from {least} to {most}, got {number!r}"
            )
        least = number
    return Limits(**numbers)


def _object(value: Any, fields: tuple[str, ...], where: str) -> dict[str, Any]:
    """The value, if it is an object of exactly these fields."""
    if not isinstance(value, dict):
        raise TuningError(f"{where}: must be an object with {', '.join(fields)}, got {value!r}")
    for name in fields:
        if name not in value:
            raise TuningError(f"{where}: {name} is missing")
    for name in value:
        if name not in fields:
            raise TuningError(f"{where}: {name} is no field: there are {', '.join(fields)}")
    return value

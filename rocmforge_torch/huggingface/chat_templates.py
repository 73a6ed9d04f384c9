"""The chat templates of a folder, wherever its version of transformers put them."""

from __future__ import annotations

from typing import Any

from ..gguf.chat_template import DEFAULT, KEY
from .folder import Folder

FILE, MORE = "chat_template.jinja", "additional_chat_templates"


def chat_templates(folder: Folder) -> dict[str, Any]:
    """The keys `tokenizer.chat_template` and `tokenizer.chat_template.NAME`.

    Raises:
        OSError: a file cannot be read.
    """
    found: dict[str, str] = {}
    stored = folder.json("tokenizer_config.json").get("chat_template")
    if isinstance(stored, str):
        found[DEFAULT] = stored
    elif isinstance(stored, list):
        found |= {str(entry["name"]): str(entry["template"]) for entry in stored}
    if (folder.path / FILE).is_file():
        found[DEFAULT] = (folder.path / FILE).read_text(encoding="utf-8")
    for path in sorted((folder.path / MORE).glob("*.jinja")):
        found[path.stem] = path.read_text(encoding="utf-8")
    keys: dict[str, Any] = {
        KEY if name == DEFAULT else f"{KEY}.{name}": template for name, template in found.items()
    }
    names = [name for name in found if name != DEFAULT]
    return keys | ({"tokenizer.chat_templates": names} if names else {})

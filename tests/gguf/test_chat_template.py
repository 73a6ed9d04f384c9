"""Chat templates: the same text as transformers, and nothing that a template should not do."""

from __future__ import annotations

import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from rocmforge_torch import GGUFError
from rocmforge_torch.gguf import template_sandbox
from rocmforge_torch.gguf.chat_template import (
    MAX_TEMPLATE_CHARS,
    apply_template,
    read_templates,
)
from rocmforge_torch.gguf.tokenizer import Tokenizer

KEY = "tokenizer.chat_template"
MESSAGES = [
    {"role": "system", "content": "Be <b>brief</b> & \"kind\"."},
    {"role": "user", "content": "  Où est l'été ? 👋\n"},
    {"role": "assistant", "content": "Là.", "tool_calls": [{"name": "f", "arguments": {"q": 1}}]},
    {"role": "user", "content": "Thanks"},
]  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {"name": "find", "description": "<é>", "parameters": {"q": {"type": "int"}}},
    }
]

# Written for these tests, with what the templates of real models use.
TEMPLATES = {
    "chatml": """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}""",
    "trimmed-blocks": """{{ bos_token }}
{% for message in messages %}
  {% if message.role == 'assistant' %}
    {% set role = 'model' %}
  {% else %}
    {% set role = message.role %}
  {% endif %}
  <start_of_turn>{{ role }}
  {{ message.content | trim }}<end_of_turn>
{% endfor %}""",
    "tools": """{% if tools is not none and tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- for message in messages if message.role != 'system' -%}
{{ loop.index0 }}/{{ loop.length }}{{ loop.first }}{{ message | tojson }}
{%- for call in message.tool_calls or [] %}<call>{{ call.arguments | tojson }}{% endfor %}
{%- endfor %}""",
    "namespace": """{% set ns = namespace(found=false, text='') %}
{%- for message in messages[1:] %}{% set ns.text = ns.text ~ message.content[:3] ~ '|' %}
{%- if message.role == 'assistant' %}{% set ns.found = true %}{% break %}{% endif %}{% endfor %}
{{- ns.text }}{{ ns.found }}""",
    "loop-controls": """{% for i in range(10) %}{% if i % 2 %}{% continue %}{% endif %}{{ i }}
{%- endfor %}""",
    "macro": """{% macro turn(role, text='-') -%}[{{ role }}]{{ text | upper }}{%- endmacro %}
{% for m in messages %}{{ turn(m.role, text=m.content) }}{% endfor %}{{ turn('end') }}""",
    "generation": """{% for m in messages %}{% if m.role == 'assistant' %}
{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{% endif %}{% endfor %}""",
    "strings": """{{ messages[0].content.split('<')[1].replace('b>', 'B').strip() }}
{{ '%s-%05d' % ('x', 12) }}{{ '{:>6}'.format('r') }}{{ 'a' * 3 }}{{ 2 ** 10 }}{{ [1] + [2] }}
{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('tool_calls', 'defined')
| list | length }}{{ 'abc' | indent(2) }}{{ ['b', 'a'] | sort }}{{ 'x' is string }}
{{ messages[0].items() | list }}{{ dict(a=1) }}{{ {'b': 2} | dictsort }}{{ none }}{{ missing }}""",
}


def expected(source: str, **variables: Any) -> str:
    texts, _ = render_jinja_template(
        [MESSAGES], chat_template=source, bos_token="<s>", eos_token="</s>", **variables
    )
    return str(texts[0])


def render(source: str, **variables: Any) -> str:
    defaults = {"messages": MESSAGES, "bos_token": "<s>", "eos_token": "</s>", "tools": None}
    return apply_template({"default": source}, "default", defaults | variables)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_as_transformers(name: str, tools: Any, prompt: bool) -> None:
    variables = {"tools": tools, "add_generation_prompt": prompt}
    text = render(TEMPLATES[name], **variables)
    assert text == expected(TEMPLATES[name], **variables)
    assert len(text) > 4


def test_date() -> None:
    assert render("{{ strftime_now('%d %b %Y') }}") == datetime.now().strftime("%d %b %Y")


def tokenizer(**templates: str) -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<|im_end|>"]
    return Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * len(tokens),
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [3],
            "tokenizer.ggml.add_space_prefix": False,
        }
        | {KEY if name == "default" else f"{KEY}.{name}": text for name, text in templates.items()}
    )


def test_tokenizer_applies_it() -> None:
    ours = tokenizer(default=TEMPLATES["chatml"], tool_use="{{ tools | tojson }}{{ extra }}")
    text = ours.apply_chat_template(MESSAGES, add_generation_prompt=False)
    assert text == expected(TEMPLATES["chatml"], add_generation_prompt=False)
    text = ours.apply_chat_template(MESSAGES, chat_template="tool_use", tools=[1], extra="!")
    assert text == "[1]!"
    assert sorted(ours.chat_templates) == ["default", "tool_use"]
    with pytest.raises(ValueError, match=r"no chat template 'rag'; it has: 'default', 'tool_use'"):
        ours.apply_chat_template(MESSAGES, chat_template="rag")
    with pytest.raises(ValueError, match=r"no chat template 'default'; it has: none"):
        tokenizer().apply_chat_template(MESSAGES)


@pytest.mark.parametrize("message", ["Hi", None, {}, {"role": 1}, {"content": "Hi"}])
def test_bad_messages(message: Any) -> None:
    ours = tokenizer(default=TEMPLATES["chatml"])
    with pytest.raises(ValueError, match=r"messages\[1\] must be a mapping with a role"):
        ours.encode_chat([MESSAGES[0], message])


def test_one_bos() -> None:
    """Whether the template writes BOS or not, the ids begin with one."""
    message = [{"role": "user", "content": "</s>"}]
    for source in ("{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"):
        assert tokenizer(default=source).encode_chat(message) == [1, 2]


def test_read_templates() -> None:
    assert read_templates({"general.name": "x", KEY: "a", KEY + ".rag": "b", KEY + "s": []}) == {
        "default": "a",
        "rag": "b",
    }
    with pytest.raises(GGUFError, match=r"key 'tokenizer\.chat_template': must be a string"):
        read_templates({KEY: 1})
    with pytest.raises(GGUFError, match="characters, at most"):
        read_templates({KEY: "x" * (MAX_TEMPLATE_CHARS + 1)})


def test_refusal() -> None:
    with pytest.raises(ValueError, match="refuses the messages: roles must alternate") as error:
        render("{{ raise_exception('roles must alternate') }}")
    assert not isinstance(error.value, GGUFError)


ESCAPES = (
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ raise_exception.__globals__.os }}",
    "{{ strftime_now.__globals__['__builtins__'] }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ (''|attr('__class__')).x }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ ''.format_map.__self__.__class__.x }}",
    "{% include 'secret' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{{ lipsum(n=5) }}",
    "{{ range(1000000) }}",
)
BROKEN = (
    "{% for %}",
    "{{ 1/0 }}",
    "{{ messages[0].content.nothing() }}",
    "{% if x %}",
    "{{ missing.attribute }}",
    "{{ messages | nofilter }}",
    "{{ 'x' | tojson(indent=99999999) }}",
    "{{ undefined_function() }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
)
TOO_MUCH = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) if range(999)|sum < 0 %}{% endfor %}"
    "{% for i in range(99999) %}{% for j in range(99999) if 0 %}{% endfor %}{% endfor %}",
    "{% for i in range(9999) recursive %}{{ loop(range(9999)) if loop.depth < 9 }}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "{{ 'a' * 10**9 }}",
    "{{ ['a'] * 10**9 }}",
    "{{ 10 ** 99999999 }}",
    "{% set n = namespace(x=7) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ 'a'.ljust(999999999) }}",
    "{{ 'a' | center(999999999) }}",
    "{{ 'a\nb' | indent(999999999) }}",
    "{{ [1] | batch(999999999, 0) | list }}",
    "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "{{ (['a' * 99999] * 99) | join('b' * 999999) }}",
    "{{ range(99999) | map('string') | join('b' * 999999) }}",
    "{% set x = 'a' * 999999 %}{% for i in range(999) %}{{ x }}{% endfor %}",
    "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "{% set t %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endset %}",
    "{{ [[[1]]] | tojson(indent=99999999) }}",
)


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out(source: str) -> None:
    before = repr(MESSAGES)
    with pytest.raises(GGUFError, match=r"^key 'tokenizer\.chat_template': ") as error:
        render(source)
    assert "secret" not in str(error.value)
    assert repr(MESSAGES) == before


@pytest.mark.parametrize("source", BROKEN, ids=lambda source: source[:40])
def test_broken(source: str) -> None:
    with pytest.raises(GGUFError, match=r"^key 'tokenizer\.chat_template': ") as error:
        render(source)
    assert len(str(error.value)) < 800


@pytest.mark.parametrize("source", TOO_MUCH, ids=lambda source: source[:40])
def test_bounded(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_SECONDS", 1.0)
    begin = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(GGUFError, match=r"SecurityError|ValueError"):
            render(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300 << 20
    assert time.process_time() - begin < 30


def test_long_conversations_fit() -> None:
    messages = [{"role": "user", "content": "word " * 2000}] * 1000
    text = render(TEMPLATES["chatml"], messages=messages)
    assert len(text) > 10_000_000


def test_renderings_at_the_same_time() -> None:
    """Each has a budget of its own."""
    source = "{% for i in range(60000) %}{{ i }}{% endfor %}"
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda _: render(source), range(8)))
    assert set(map(len, texts)) == {len("".join(map(str, range(60000))))}

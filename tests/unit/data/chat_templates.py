"""Chat templates after the public families, with what a model must say under each.

`expected` is written by hand from how each family shows a reply; it knows nothing of the mask code that it judges.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Messages = list[dict[str, Any]]
Expected = Callable[[Messages, int], str]

PLAIN_ROWS = ("single", "multi-turn", "system", "empty content", "edges", "trailing user")


@dataclass(frozen=True)
class Shape:
    """A chat template of one family.

    Attributes:
        source: Jinja.
        expected: what the model must say for an assistant message, with its end of turn.
        end: the special token that ends a turn; None where there is none.
        special: the other special tokens, with blanks between.
        rows: the kinds of row that it takes.
        pipeline: the tokenizer of its family, of test_tokenizers.py.
        bos, eos, pad: what the config names so; with `adds_bos` the tokenizer's post-processor adds it by itself.
        words: added tokens that are not special; `strips_right`: special ones swallow the blanks behind them.
    """

    source: str
    expected: Expected
    end: str | None
    special: str = ""
    rows: tuple[str, ...] = PLAIN_ROWS
    pipeline: str = "gpt2"
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    words: tuple[str, ...] = ()
    adds_bos: bool = False
    strips_right: bool = False


CHATML = """\
{% for m in messages %}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""
_MARKED = CHATML.replace(
    "{{ m.content }}<|im_end|>\n",
    "{% if m.role == 'assistant' %}REPLY{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}",
)
MARKED_WITH_END = _MARKED.replace("REPLY", "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}")
MARKED_WITHOUT_END = _MARKED.replace("REPLY", "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>")
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n\n{% endif %}" + CHATML
TRIMMING = CHATML.replace("m.content", "m.content | trim")
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_TOOLS_HEADER = """\
{% if tools %}
<|im_start|>system
{{ messages[0].content ~ '\\n\\n' if messages[0].role == 'system' }}# Tools

<tools>
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}
</tools><|im_end|>
{% elif messages[0].role == 'system' %}
<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
"""
_TOOL_CALLS = """\
{%- for call in m.tool_calls or [] %}
{{ '\\n' if content or not loop.first }}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}
<|im_end|>
{% elif m.role == 'tool' %}
{% if messages[loop.index0 - 1].role != 'tool' %}
<|im_start|>user
{%- endif %}
{{ '\\n' }}<tool_response>
{{ m.content }}
</tool_response>
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
<|im_end|>
{% endif %}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
"""
CHATML_TOOLS = (
    _TOOLS_HEADER
    + """\
{% for m in messages %}
{% set content = m.content %}
{% if m.role == 'user' %}
<|im_start|>user
{{ content }}<|im_end|>
{% elif m.role == 'assistant' %}
<|im_start|>assistant
{{ content }}
"""
    + _TOOL_CALLS
    + "{% endif %}"
)
# Thinking is shown behind the last question only; it may also stand in the content.
_THINKING = (
    _TOOLS_HEADER
    + """\
{% set ns = namespace(last_query=messages | length - 1, looking=true) %}
{% for m in messages[::-1] %}
{% if ns.looking and m.role == 'user' and not m.content.startswith('<tool_response>') %}
{% set ns.looking = false %}
{% set ns.last_query = messages | length - 1 - loop.index0 %}
{% endif %}
{% endfor %}
{% for m in messages %}
{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% elif m.role == 'assistant' %}
{% set content = m.content %}
{% set reasoning = m.reasoning_content or '' %}
{% if not reasoning and '</think>' in content %}
{% set reasoning = content.split('</think>')[0].split('<think>')[-1] %}
{% set content = content.split('</think>')[-1].lstrip('\\n') %}
{% endif %}
<|im_start|>assistant
{% if loop.index0 > ns.last_query and (loop.last or reasoning) %}
<think>
{{ reasoning.strip('\\n') }}
</think>

{{ content.lstrip('\\n') }}
{%- else %}
{{ content }}
{%- endif %}
"""
    + _TOOL_CALLS
)
QWEN3 = _THINKING + "{% endif %}"
QWEN3_THINKING = _THINKING + "<think>\n{% endif %}"
LLAMA3 = """\
{{ bos_token }}
{%- for m in messages %}
<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>

{% if tools and m.role == 'user' and loop.first %}
Respond with a JSON for a call of these functions.

{{ tools | tojson(indent=4) }}

{% endif %}
{% if m.tool_calls %}
{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}
{%- else %}
{{ m.content | trim }}
{%- endif %}
<|eot_id|>
{%- endfor %}
{% if add_generation_prompt %}
<|start_header_id|>assistant<|end_header_id|>

{% endif %}
"""
GEMMA = """\
{{ bos_token }}
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- for m in (messages[1:] if system else messages) %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ system ~ '\\n\\n' if system and loop.first }}{{ m.content | trim }}<end_of_turn>
{% endfor %}
{% if add_generation_prompt %}
<start_of_turn>model
{% endif %}
"""
# The system text and the tools stand in the last question: each answer moves them on.
MISTRAL = """\
{{ bos_token }}
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- set last_user = messages | selectattr('role', 'equalto', 'user') | list | last %}
{%- for m in (messages[1:] if system else messages) %}
{%- if m.role == 'user' %}
{%- if tools and m == last_user %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
[INST] {{ system ~ '\\n\\n' if system and m == last_user }}{{ m.content }}[/INST]
{%- elif m.tool_calls %}
{%- set call = m.tool_calls[0] %}
[TOOL_CALLS] [{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, "id": "
{{- call.id }}"}]{{ eos_token }}
{%- elif m.role == 'assistant' %}
{{ ' ' ~ m.content ~ eos_token }}
{%- else %}
[TOOL_RESULTS] {"content": {{ m.content | tojson }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]
{%- endif %}
{%- endfor %}
"""
LLAMA2 = """\
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- for m in (messages[1:] if system else messages) %}
{%- if m.role == 'user' %}
{{- bos_token ~ '[INST] ' ~ ('<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' if loop.first and system else '') }}
{{- m.content.strip() ~ ' [/INST]' }}
{%- else %}
{{- ' ' ~ m.content.strip() ~ ' ' ~ eos_token }}
{%- endif %}
{%- endfor %}
"""
DEEPSEEK = """\
{{ bos_token }}{{ messages[0].content if messages[0].role == 'system' }}
{%- for m in messages %}
{%- if m.role == 'user' %}
<｜User｜>{{ m.content }}<｜Assistant｜>
{%- elif m.tool_calls %}
<｜tool▁calls▁begin｜><｜tool▁sep｜>{{ m.tool_calls[0].function.name }}
```json
{{ m.tool_calls[0].function.arguments | tojson }}
```<｜tool▁calls▁end｜>{{ eos_token }}
{%- elif m.role == 'tool' %}
<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>
{%- elif m.role == 'assistant' %}
{{ m.content.split('</think>') | last }}{{ eos_token }}
{%- endif %}
{%- endfor %}
"""
HARMONY = """\
<|start|>system<|message|>You are a model.{{ ' Calls go to the commentary channel.' if tools }}<|end|>
{%- if messages[0].role == 'system' or tools %}
<|start|>developer<|message|>{{ messages[0].content if messages[0].role == 'system' }}{{ tools or '' }}<|end|>
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}
<|start|>user<|message|>{{ m.content }}<|end|>
{%- elif m.role == 'tool' %}
<|start|>functions.{{ m.name }} to=assistant<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>
{%- elif m.role == 'assistant' %}
{%- set is_last = loop.last and not add_generation_prompt %}
{%- set later = messages[loop.index:] | selectattr('role', 'equalto', 'assistant') | list %}
{%- if m.thinking and (is_last or (m.tool_calls and not later)) %}
<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>
{%- endif %}
{%- for call in m.tool_calls or [] %}
<|start|>assistant to=functions.{{ call.function.name }}<|channel|>commentary json<|message|>
{{- call.function.arguments | tojson }}<|call|>
{%- else %}
<|start|>assistant<|channel|>final<|message|>{{ m.content }}{{ '<|return|>' if is_last else '<|end|>' }}
{%- endfor %}
{%- endif %}
{%- endfor %}
{% if add_generation_prompt %}
<|start|>assistant
{%- endif %}
"""
PLAIN_ROLES = """\
{% for m in messages %}
{{ {'user': 'Human:', 'assistant': 'Assistant:', 'system': 'System:'}[m.role] }} {{ m.content }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}Assistant:{% endif %}
"""
PLAIN_END = """\
{% for m in messages %}
### {{ m.role | capitalize }}:
{{ m.content }}

{% endfor %}
{% if add_generation_prompt %}
### Assistant:
{% endif %}
"""
# The next role's token is what stops the model; no token of its own ends a turn.
NO_END = """\
<sop>{% for m in messages %}<|{{ m.role }}|>
{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""


def _says(end: str, content: str = "{}", call: str = "", *, trims: bool = False) -> Expected:
    """`expected` of a family that shows a message as `content`, or as `call` where it calls a tool."""

    def expected(messages: Messages, turn: int) -> str:
        message = messages[turn]
        if not message.get("tool_calls"):
            return content.replace("{}", message["content"].strip() if trims else message["content"]) + end
        function = message["tool_calls"][0]["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        return call.replace("NAME", function["name"]).replace("ARGUMENTS", arguments) + end

    return expected


_chatml_tools = _says("<|im_end|>", call='<tool_call>\n{"name": "NAME", "arguments": ARGUMENTS}\n</tool_call>')
_harmony_said = _says(
    "",
    "<|channel|>final<|message|>{}<|return|>",
    " to=functions.NAME<|channel|>commentary json<|message|>ARGUMENTS<|call|>",
)


def _qwen3(messages: Messages, turn: int) -> str:
    thought = messages[turn].get("reasoning_content", "").strip("\n")
    said = {**messages[turn], "content": messages[turn]["content"].lstrip("\n")}
    return f"<think>\n{thought}\n</think>\n\n{_chatml_tools([said], 0)}"


def _harmony(messages: Messages, turn: int) -> str:
    thought = messages[turn].get("reasoning_content")
    before = f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant" if thought else ""
    return before + _harmony_said(messages, turn)


_ALL_ROWS = (*PLAIN_ROWS, "tools", "reasoning", "reasoning about tools")
_TOOL_WORDS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_QWEN3 = {"rows": _ALL_ROWS, "pipeline": "qwen", "words": ("<think>", "</think>", *_TOOL_WORDS)}
_EOT, _EOS = "<|endoftext|>", "<｜end▁of▁sentence｜>"


def _chatml(source: str, expected: Expected | None = None, **more: Any) -> Shape:
    return Shape(source, expected or _says("<|im_end|>"), "<|im_end|>", "<|im_start|>", **more)


SHAPES: dict[str, Shape] = {
    "chatml": _chatml(CHATML, rows=(*PLAIN_ROWS, "consecutive")),
    "chatml-tools": _chatml(
        CHATML_TOOLS, _chatml_tools, rows=(*PLAIN_ROWS, "tools"), pipeline="qwen", words=_TOOL_WORDS
    ),
    "default-system": _chatml(DEFAULT_SYSTEM),
    "marked-with-end": _chatml(MARKED_WITH_END),
    "marked-without-end": _chatml(MARKED_WITHOUT_END),
    "qwen3": _chatml(QWEN3, _qwen3, **_QWEN3, pad=_EOT),
    "qwen3-thinking": _chatml(QWEN3_THINKING, lambda *turn: _qwen3(*turn).removeprefix("<think>\n"), **_QWEN3),
    "llama3": Shape(
        LLAMA3,
        _says("<|eot_id|>", call='{"name": "NAME", "parameters": ARGUMENTS}', trims=True),
        *("<|eot_id|>", "<|start_header_id|> <|end_header_id|>"),
        rows=(*PLAIN_ROWS, "tools", "consecutive"),
        pipeline="llama3",
        bos="<|begin_of_text|>",
        adds_bos=True,  # and the template writes it, too
    ),
    "gemma": Shape(
        GEMMA,
        _says("<end_of_turn>", trims=True),
        *("<end_of_turn>", "<start_of_turn>"),
        pipeline="gemma",
        bos="<bos>",
        eos="<eos>",
        words=("\n", "\n\n", "<table>"),
    ),
    "mistral": Shape(
        MISTRAL,
        _says("</s>", " {}", '[TOOL_CALLS] [{"name": "NAME", "arguments": ARGUMENTS, "id": "call12345"}]'),
        *("</s>", "[INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS]"),
        rows=(*PLAIN_ROWS, "tools"),
        pipeline="metaspace",
        bos="<s>",
    ),
    "llama2": Shape(LLAMA2, _says("</s>", " {} ", trims=True), "</s>", pipeline="metaspace", bos="<s>"),
    "deepseek": Shape(
        DEEPSEEK,
        _says(_EOS, call="<｜tool▁calls▁begin｜><｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```<｜tool▁calls▁end｜>"),
        *(_EOS, "<｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> <｜tool▁sep｜> <｜tool▁calls▁end｜>"),
        rows=(*PLAIN_ROWS, "tools"),
        pipeline="deepseek",
        bos="<｜begin▁of▁sentence｜>",
    ),
    "harmony": Shape(
        HARMONY,
        _harmony,
        *("<|return|>", "<|start|> <|end|> <|message|> <|channel|> <|call|>"),
        rows=(*_ALL_ROWS, "consecutive"),
        pipeline="llama3",
    ),
    "phi3": Shape(
        *(PHI3, _says("<|end|>"), "<|end|>", "<|system|> <|user|> <|assistant|>"),
        pipeline="metaspace",
        strips_right=True,
    ),
    "trimming": _chatml(TRIMMING, _says("<|im_end|>", trims=True), pipeline="unigram"),
    "pad-is-eos": Shape(PLAIN_ROLES, _says(_EOT, " {}"), _EOT, eos=_EOT, pad=_EOT),
    "no-bos": _chatml(CHATML, bos="<s>", adds_bos=True),
    "double-bos": _chatml("{{ bos_token }}" + CHATML, bos="<s>", adds_bos=True),
    "plain-end": Shape(PLAIN_END, _says("\n\n"), None),
    "no-end": Shape(NO_END, _says(""), None, "<sop> <|system|> <|user|> <|assistant|>", pipeline="qwen"),
}

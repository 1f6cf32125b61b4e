"""Which family of chat templates a template belongs to, told by the marks it writes; nothing is rendered."""

# The first whose marks are all in the template; rarer marks stand before those that others share.
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Harmony", ("<|channel|>", "<|message|>")),
    ("ChatML", ("<|im_start|>",)),
    ("Llama 4", ("<|header_start|>",)),
    ("Llama 3", ("<|start_header_id|>",)),
    ("Gemma 4", ("<|turn>",)),
    ("Gemma", ("<start_of_turn>",)),
    ("Granite", ("<|start_of_role|>",)),
    ("Command", ("<|START_OF_TURN_TOKEN|>",)),
    ("GLM", ("[gMASK]",)),
    ("DeepSeek", ("<｜User｜>",)),
    ("Kimi", ("<|im_user|>",)),
    ("MiniMax", ("]~b]",)),
    ("Phi", ("<|user|>", "<|end|>")),
    ("Zephyr", ("<|user|>", "<|assistant|>")),
    ("Llama 2", ("[INST]", "<<SYS>>")),
    ("Mistral", ("[INST]",)),
    ("Alpaca", ("### Instruction",)),
    ("Vicuna", ("USER:", "ASSISTANT:")),
)


def chat_family(template: str) -> str:
    """The family of a chat template, such as `ChatML`; `custom` where its marks are of none that is known."""
    return next((name for name, marks in _FAMILIES if all(mark in template for mark in marks)), "custom")

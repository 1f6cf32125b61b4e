import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from xtuner.demo.build import DemoFiles, build_demo
from xtuner.demo.model import parameter_shapes
from xtuner.demo.tokenizer import EOS_ID, IM_START_ID, PAD_ID, SPECIAL_TOKENS, VOCAB_SIZE


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return build_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def chats(demo: DemoFiles) -> list[list[dict[str, str]]]:
    return [json.loads(line) for line in demo.dataset.read_text(encoding="utf-8").splitlines()]


def load_model(directory: Path) -> torch.nn.Module:
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, attn_implementation="sdpa")
    assert not any(info.values()), info
    return model


def test_the_model_loads_with_nothing_missing_and_nothing_left(demo: DemoFiles) -> None:
    model = load_model(demo.model_dir)
    stored = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    assert stored == parameter_shapes()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.float32
    assert model.config.rope_parameters["rope_theta"] == 1e6
    assert (model.config.eos_token_id, model.config.pad_token_id) == (EOS_ID, PAD_ID)
    assert 1_000_000 < sum(parameter.numel() for parameter in model.parameters()) < 1_100_000


def test_transformers_and_tokenizers_give_the_same_ids(demo: DemoFiles, chats: list[list[dict[str, str]]]) -> None:
    theirs = AutoTokenizer.from_pretrained(demo.model_dir)
    ours = Tokenizer.from_file(str(demo.model_dir / "tokenizer.json"))
    assert len(theirs) == ours.get_vocab_size() == VOCAB_SIZE
    assert [ours.token_to_id(token) for token in SPECIAL_TOKENS] == [PAD_ID, IM_START_ID, EOS_ID]
    assert (theirs.eos_token_id, theirs.pad_token_id) == (EOS_ID, PAD_ID)
    for chat in chats[:50]:
        text = theirs.apply_chat_template(chat, tokenize=False)
        ids = ours.encode(text).ids
        assert theirs(text)["input_ids"] == ids
        assert ours.decode(ids, skip_special_tokens=False) == text
        assert ids.count(EOS_ID) == len(chat)


def test_every_prefix_renders_as_a_prefix(demo: DemoFiles, chats: list[list[dict[str, str]]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.model_dir)

    def render(messages: list[dict[str, str]], *, prompt: bool) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))

    assert render([{"role": "user", "content": "Hi"}], prompt=True) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    for chat in chats:
        whole = render(chat, prompt=False)
        for k in range(1, len(chat)):
            is_user = chat[k - 1]["role"] == "user"
            assert whole.startswith(render(chat[:k], prompt=is_user))


def test_rows_are_short_enough_to_train_fast_and_long_enough_to_be_chats(
    demo: DemoFiles, chats: list[list[dict[str, str]]]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.model_dir)
    num_tokens = sorted(
        len(tokenizer(tokenizer.apply_chat_template(chat, tokenize=False))["input_ids"]) for chat in chats
    )
    assert 100 < sum(num_tokens) / len(num_tokens) < 160
    assert num_tokens[0] < 40
    assert 400 < num_tokens[-1] < 1024


def test_a_short_training_lowers_the_loss(demo: DemoFiles, chats: list[list[dict[str, str]]]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.model_dir)
    ids = [
        token for chat in chats for token in tokenizer(tokenizer.apply_chat_template(chat, tokenize=False))["input_ids"]
    ]
    packs = torch.tensor(ids[: 4 * 128 * (len(ids) // (4 * 128))]).view(-1, 4, 128)
    torch.manual_seed(0)
    model = load_model(demo.model_dir).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        losses = []
        for step in range(30):
            loss = model(input_ids=packs[step], labels=packs[step]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    finally:
        torch.set_num_threads(num_threads)
    assert losses[0] == pytest.approx(math.log(VOCAB_SIZE), abs=0.3)
    assert losses[-1] < losses[0] - 1.0, losses

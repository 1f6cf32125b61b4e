"""`ChatModel`: prompts as in training, replies of transformers' own generation, and where they end."""

import json
import shutil

import peft
import pytest
import scripted_models
import tiny_models
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from xtuner.data.chat import Chat
from xtuner.data.mask import mask_chat
from xtuner.data.template import TokenizerFiles
from xtuner.errors import EnvironmentFault, ModelError, UsageError
from xtuner.v1.chat.load import load_chat_model
from xtuner.v1.chat.model import Prompt, Sampling, set_seed
from xtuner.v1.chat.text import Piece

ASKED = [{"role": "user", "content": "What is 3 plus 4?"}]
GREEDY = Sampling(max_new_tokens=24, temperature=0)


def _reply(model, messages=ASKED, sampling=GREEDY, on_piece=lambda piece: None):
    return model.reply(model.prompt(messages), sampling, on_piece)


@pytest.fixture
def scripted(tmp_path):
    def make(reply=scripted_models.CHINESE, **options):
        return scripted_models.make_scripted_model(tmp_path / "scripted", reply, **options)

    return make


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "gpt_oss"])
def test_greedy_replies_are_those_of_transformers(tiny_model, architecture):
    directory = tiny_model(architecture, seed=3)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    plain = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
    out = plain.generate(**ids, do_sample=False, max_new_tokens=24, pad_token_id=0)[0, ids.input_ids.shape[1] :]
    model = load_chat_model(directory)
    pieces = []
    reply = _reply(model, on_piece=pieces.append)
    assert model.prompt(ASKED).ids == ids.input_ids[0].tolist()
    assert reply.text == "".join(piece.text for piece in pieces)
    assert reply.text == tokenizer.decode(out, skip_special_tokens=True).rstrip("\ufffd") and reply.text
    assert reply.num_tokens == len(out) and reply.num_prompt_tokens == ids.input_ids.shape[1] and reply.seconds > 0
    attention = "sdpa" if architecture == "qwen3" else "eager"  # neither capped scores nor sinks are in `sdpa`
    assert model._model.config._attn_implementation == attention


def test_a_prompt_is_the_text_before_a_trained_reply(tiny_model):
    directory = tiny_model("qwen3")
    messages = [{"role": "system", "content": "Sei kurz."}, *ASKED, {"role": "assistant", "content": " 7 "}, *ASKED]
    prompt = load_chat_model(directory).prompt(messages)
    files = TokenizerFiles.load(directory)
    [masked] = mask_chat(Chat("row", [*messages, {"role": "assistant", "content": "Seven."}]), files.template)
    text = masked.text[: masked.spans[-1][0]]
    assert text.endswith("assistant\n") and prompt == Prompt(files.tokenizer.encode(text).ids, opens_reasoning=False)


def test_replies_end_where_the_model_ends_them(scripted):
    pieces = []
    reply = _reply(load_chat_model(scripted()), on_piece=pieces.append)
    assert (reply.text, reply.reasoning, reply.stop) == ("你夏星火", "", "end")
    assert pieces == [Piece(character, is_reasoning=False) for character in "你夏星火"]
    assert reply.num_tokens == 13  # twelve bytes and the end


@pytest.mark.parametrize("ends_with_token", [True, False])
def test_the_template_says_how_a_turn_ends(scripted, ends_with_token):
    """As with a base model, whose own files know the end of a document alone."""
    template = tiny_models.CHATML if ends_with_token else tiny_models.CHATML.replace("<|im_end|>", "\n")
    directory = scripted(template=template, eos_token_id=None)
    config = directory / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<|im_end|>", "<|im_start|>"))
    reply = _reply(load_chat_model(directory))
    assert (reply.text, reply.stop) == ("你夏星火", "end" if ends_with_token else "length")


@pytest.mark.parametrize("opened_by", ["reply", "prompt"])
def test_reasoning_is_told_from_the_reply(scripted, opened_by):
    prompt_tag = "<think>\n" if opened_by == "prompt" else ""
    template = tiny_models.CHATML.replace("assistant\n{% endif %}", "assistant\n" + prompt_tag + "{% endif %}")
    said = ("" if prompt_tag else "<think>") + "go 火</think>你夏"
    model = load_chat_model(scripted(said, template=template, tags=("<think>", "</think>")))
    pieces = []
    reply = _reply(model, on_piece=pieces.append)
    assert (reply.reasoning, reply.text, reply.stop) == ("go 火", "你夏", "end")
    assert "".join(piece.text for piece in pieces if piece.is_reasoning) == said.removesuffix("你夏")


def test_ctrl_c_ends_a_reply_and_keeps_what_was_said(scripted):
    said = []

    def press_ctrl_c(piece):
        said.append(piece.text)
        if len(said) == 6:
            raise KeyboardInterrupt

    model = load_chat_model(scripted(is_endless=True))
    reply = _reply(model, sampling=Sampling(max_new_tokens=4000), on_piece=press_ctrl_c)
    assert (reply.text, reply.stop, reply.num_tokens) == ("你夏星火你夏", "interrupted", 18) and not reply.is_empty
    assert _reply(model, sampling=Sampling(max_new_tokens=3)).text == "你"


def test_flags_win_over_generation_config_which_wins_over_defaults(scripted):
    directory = scripted(is_endless=True, context_length=300)
    model = load_chat_model(directory)
    assert model.max_new_tokens(Sampling()) == 1024 and model.history_limit(Sampling()) == 150
    assert model.history_limit(Sampling(max_new_tokens=20)) == 280
    own = {"max_new_tokens": 6, "max_length": 20, "do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9}
    path = directory / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    model = load_chat_model(directory)
    assert (_reply(model, sampling=Sampling()).num_tokens, _reply(model).num_tokens) == (6, 24)

    def sampled(**flags):
        config = model._generation_config(Sampling(**flags), 9)
        return config.max_new_tokens, config.do_sample, config.temperature, config.top_p, config.top_k

    assert sampled() == (9, True, 0.7, 0.9, 5)
    assert sampled(temperature=1.5) == (9, True, 1.5, 0.9, 5)
    assert sampled(top_p=0.3) == (9, True, 0.7, 0.3, 5)
    assert sampled(temperature=0, top_p=0.3) == (9, False, None, None, None)


def test_seeds_repeat_a_reply_and_without_one_it_is_another(tiny_model):
    model = load_chat_model(tiny_model("llama"))

    def replies(seed, temperature=1.0):
        set_seed(seed)
        return [_reply(model, sampling=Sampling(24, temperature)).text for _ in range(2)]

    assert replies(1) == replies(1) != replies(2)
    assert replies(None) != replies(None)
    assert replies(None, 0.0) == replies(None, 0.0)


def test_the_context_is_never_left(scripted):
    model = load_chat_model(scripted(is_endless=True, context_length=64))
    num_prompt = len(model.prompt(ASKED).ids)
    reply = _reply(model, sampling=Sampling(max_new_tokens=500))
    assert (reply.num_prompt_tokens, reply.num_tokens, reply.stop) == (num_prompt, 64 - num_prompt, "length")
    with pytest.raises(UsageError, match=r"the question has \d+ tokens .* context 64"):
        _reply(model, [{"role": "user", "content": "What? " * 40}])


def test_a_template_that_refuses_says_what_to_do(scripted):
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    model = load_chat_model(scripted(template=refusing + tiny_models.CHATML))
    with pytest.raises(UsageError, match="no system role") as error:
        _reply(model, [{"role": "system", "content": "Be brief."}, *ASKED])
    assert "without a system message" in error.value.hint
    assert _reply(model).text == "你夏星火"
    with pytest.raises(ModelError, match="never"):
        _reply(load_chat_model(scripted(template="{{ raise_exception('never') }}")))


def test_an_adapter_is_put_on_its_base(tiny_model, tmp_path):
    base = tiny_model("qwen3")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False, lora_alpha=64)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    adapted.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([load_chat_model(base).prompt(ASKED).ids])
    model = load_chat_model(base, adapter_dir=tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(model._model(ids).logits, adapted.eval()(ids).logits, rtol=1e-4, atol=1e-4)
    assert _reply(model).text != _reply(load_chat_model(base)).text
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="peft cannot put the adapter"):
        load_chat_model(base, adapter_dir=tmp_path / "adapter")


def test_dtype_and_device(tiny_model, tmp_path):
    directory = tiny_model("llama", dtype=torch.bfloat16)
    assert load_chat_model(directory)._model.dtype == torch.bfloat16
    assert load_chat_model(directory, dtype="float32")._model.dtype == torch.float32
    with pytest.raises(UsageError, match="--device gpu is not a device"):
        load_chat_model(directory, device="gpu")
    with pytest.raises(EnvironmentFault, match="--device cuda:99 is not there"):
        load_chat_model(directory, device="cuda:99")
    broken = shutil.copytree(directory, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of"}))
    with pytest.raises(ModelError, match=r"transformers cannot load .*broken"):
        load_chat_model(broken)

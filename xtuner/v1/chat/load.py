"""From a model directory to a `ChatModel`: `transformers` loads it, `peft` puts an adapter on."""

from pathlib import Path
from typing import Literal, get_args

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from xtuner.data.template import TokenizerFiles
from xtuner.errors import EnvironmentFault, ModelError, UsageError
from xtuner.v1.chat.model import ChatModel, out_of_memory

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


def load_chat_model(
    model_dir: Path,
    *,
    adapter_dir: Path | None = None,
    tokenizer_dir: Path | None = None,
    dtype: DTypeName = "auto",
    device: str = "auto",
) -> ChatModel:
    """Load a model that `xtuner.hub` has judged, from files alone; nothing is fetched and no code of it is run.

    Args:
        model_dir: a Hugging Face model directory.
        adapter_dir: a LoRA adapter to put on it.
        tokenizer_dir: where tokenizer and chat template are; None is `model_dir`.
        dtype: of the weights; "auto" is as they are stored.
        device: as PyTorch names it; "auto" is the first GPU, or the CPU.

    Raises:
        UsageError: there is no such kind of device.
        ModelError: the files do not make a model, a tokenizer or a chat template.
        EnvironmentFault: the device is not there, or has not enough memory.
    """
    assert dtype in get_args(DTypeName)
    target = _device(device)
    files = TokenizerFiles.load(tokenizer_dir or model_dir)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model = _load(model_dir, dtype)
        if adapter_dir is not None:
            model = _adapt(model, adapter_dir)
        return ChatModel(model.to(target).eval(), files)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(error) from None


def _load(directory: Path, dtype: DTypeName) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        # Capped scores are what `sdpa` cannot do; some releases of transformers would leave the cap out.
        is_capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
        return AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation="eager" if is_capped else None,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelError(
            f"transformers cannot load {directory}: {error}", hint=f"xtuner check-model {directory}"
        ) from None


def _adapt(model: PreTrainedModel, adapter_dir: Path) -> torch.nn.Module:
    from peft import PeftModel

    try:
        adapted = PeftModel.from_pretrained(model, str(adapter_dir), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"peft cannot put the adapter {adapter_dir} on its base model: {error}",
            hint="base_model_name_or_path in its adapter_config.json must name the model it was trained on",
        ) from None
    # Merged, a reply takes no longer than without an adapter.
    return adapted.merge_and_unload()


def _device(name: str) -> torch.device:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"--device {name} is not a device", hint="pass cpu, cuda, cuda:1 ..., or leave it out"
        ) from None
    if device.type == "cpu":
        return device
    num_devices = torch.accelerator.device_count() if accelerator and accelerator.type == device.type else 0
    if (device.index or 0) >= num_devices:
        raise EnvironmentFault(
            f"--device {name} is not there: PyTorch sees {num_devices} devices of type {device.type}",
            hint="leave --device out, or pass --device cpu",
        )
    return device

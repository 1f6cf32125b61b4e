"""The proof, on the model at hand, that the rows of a pack do not see each other."""

import torch
from transformers import PreTrainedModel

from xtuner.errors import ModelError
from xtuner.v1.engine.mode import evaluating

_DOCUMENT = 16  # tokens; long enough for any short convolution or state to carry something over
_TOLERANCE = 0.01  # share of the logits' spread; rounding stays below 1e-5 in fp32 and 5e-3 in bf16


@torch.no_grad()
def check_isolation(model: PreTrainedModel, device: torch.device) -> None:
    """Run two packs that differ only in their first document; the second one's logits must not notice.

    Catches every architecture that carries something across documents by another way than attention (recurrent
    states, convolutions). The median over tokens is judged: a mixture of experts may send single tokens elsewhere
    through rounding, a leak shows in all of them.

    Raises:
        ModelError: they do notice.
    """
    vocab_size = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    first, other, second = torch.randint(vocab_size, (3, _DOCUMENT), generator=generator)
    position_ids = torch.arange(_DOCUMENT, device=device).repeat(2)[None]
    with evaluating(model):  # dropout would make two runs differ by itself
        logits = [
            model(
                input_ids=torch.cat([before, second])[None].to(device),
                position_ids=position_ids,
                document_lengths=[_DOCUMENT, _DOCUMENT],
                use_cache=False,
            ).logits[0, _DOCUMENT:]
            for before in (first, other)
        ]
    spread = logits[0].float().std()
    change = (logits[0] - logits[1]).float().abs().amax(dim=-1).median()
    if change > _TOLERANCE * spread:
        raise ModelError(
            f"{type(model).__name__} lets the rows of a pack see each other "
            f"(logits change by {change / spread:.0%} of their spread)",
            hint="this architecture cannot be trained on packed rows yet",
        )

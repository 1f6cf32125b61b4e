"""Replies of the model at each evaluation, beside those of the data: what a loss does not show."""

from xtuner.data.prepared import PreparedData
from xtuner.data.prompts import read_prompts
from xtuner.data.template import TokenizerFiles
from xtuner.preflight import data_request
from xtuner.run.layout import RunDir
from xtuner.run.metrics import MetricsWriter
from xtuner.run.text import visible
from xtuner.v1.config import TrainerConfig
from xtuner.v1.engine.engine import TrainEngine
from xtuner.v1.engine.sampling import greedy_replies
from xtuner.v1.train.rank_log import RankLog

_SHOWN_CHARS = 300


class Generations:
    """Answers the first chats of the evaluation data anew; every rank must call `write`.

    Args:
        engine: whose model replies.
        data: the evaluation data as prepared, which knows how replies end.
        config: how many chats, and how long the replies may be.
        run_dir: takes the records.
        log: of this rank.
        is_writer: true on exactly one rank.

    Raises:
        ModelError, DataError: see `read_prompts`.
    """

    def __init__(
        self,
        engine: TrainEngine,
        data: PreparedData,
        config: TrainerConfig,
        run_dir: RunDir,
        log: RankLog,
        *,
        is_writer: bool,
    ) -> None:
        self._engine = engine
        self._max_new_tokens = config.eval_generation_tokens
        self._log = log
        self._prompts = read_prompts(data_request(config, config.eval_specs), config.eval_generations)
        self._records = MetricsWriter(run_dir.generations) if is_writer and self._prompts else None
        files = TokenizerFiles.load(config.tokenizer_dir, config.chat_template)
        self._tokenizer = files.tokenizer
        self._stop_ids = _stop_ids(engine, files, data)

    def write(self, step: int) -> None:
        """Let the model reply as it is after `step`; log and record what it says."""
        if not self._prompts:
            return
        replies = greedy_replies(
            self._engine.model,
            [prompt.ids for prompt in self._prompts],
            max_new_tokens=self._max_new_tokens,
            stop_ids=self._stop_ids,
            device=self._engine.device,
        )
        if self._records is None:
            return
        for prompt, ids in zip(self._prompts, replies, strict=True):
            reply = self._tokenizer.decode(ids, skip_special_tokens=True)
            self._log.info(f"Reply at step {step} to {prompt.where}: {visible(reply[:_SHOWN_CHARS])}")
            self._records.write(
                {
                    "kind": "generation",
                    "step": step,
                    "where": prompt.where,
                    "prompt": prompt.text,
                    "reply": reply,
                    "reference": prompt.reference,
                }
            )

    def close(self) -> None:
        """Close the file."""
        if self._records:
            self._records.close()


def _stop_ids(engine: TrainEngine, files: TokenizerFiles, data: PreparedData) -> list[int]:
    """What ends a reply: the model's end of text, the tokenizer's, and what ends most replies of the data."""
    of_model = engine.model.config.get_text_config().eos_token_id
    ends = [name for name, _ in data.counts.end_tokens.most_common(1)]
    ids = [*(of_model if isinstance(of_model, list) else [of_model]), files.eos_id]
    ids += [files.tokenizer.token_to_id(name) for name in ends]
    return sorted({id for id in ids if id is not None})

"""Questions about XTuner itself: models, data, a run, and what the words of fine-tuning mean."""

from xtuner.demo.topics.dialogue import Dialogue, Facet, Turn, chain

MODELS = (
    Facet(
        "How do I check whether a model directory can be trained with XTuner?",
        "How do I check the directory before I train?",
        "Run `xtuner check-model PATH` with the directory. It looks for config.json, for the weights and for the "
        "tokenizer, and it gives a verdict. When something is missing, the message names the file and says how to mend "
        "it. The exit code is 0 for a good directory and 3 for a bad one.",
    ),
    Facet(
        "Which files does a model directory need?",
        "Which files have to be in it?",
        "A Hugging Face model directory needs four kinds of files:\n\n"
        "- config.json, which describes the architecture\n"
        "- the weights, as one or several .safetensors files\n"
        "- tokenizer.json and tokenizer_config.json\n"
        "- a chat template, in chat_template.jinja or in tokenizer_config.json\n\n"
        "When there are several weight files, model.safetensors.index.json says which tensor lies in which of them.",
    ),
    Facet(
        "My model is in the Hugging Face cache. Which path do I pass to XTuner?",
        "And if the model is in the Hub cache?",
        "Pass the snapshot directory. The cache keeps each repository in a folder such as models--org--name, and "
        "inside it are blobs, refs and snapshots. The files that belong together are in snapshots, under the hash of "
        "a commit. So the path looks like models--org--name/snapshots/0a1b2c, and not like models--org--name.",
    ),
    Facet(
        "Why are the files in a Hub snapshot only links?",
        "The files in there are links. Is that right?",
        "That is right. The Hub cache stores the content of every file once, in the blobs folder, and a snapshot "
        "holds symbolic links to it. Two versions of a model then share the files that did not change. If you copy a "
        "snapshot to another machine, copy what the links point to, for example with `cp -rL`.",
    ),
    Facet(
        "What does it mean when config.json is missing?",
        "What if config.json is missing?",
        "Then the path is most likely one level too high or too low. In the Hub cache the right level is the snapshot "
        "directory. If the path is right, the download was not complete: fetch the model again, and check the "
        "directory with `xtuner check-model` before you train.",
    ),
    Facet(
        "What is a chat template?",
        "And what is a chat template?",
        "A chat template turns a list of messages into one text. It marks where each message begins and ends and who "
        "speaks, so the model can tell the user from the assistant. Training must use the same template as the model "
        "sees later, and therefore XTuner takes it from the model directory.",
    ),
    Facet(
        "What is the safetensors format?",
        "Why are the weights in safetensors files?",
        "Safetensors is a simple file format for tensors. A file begins with the length of its header, then comes the "
        "header with names, types, shapes and positions, and then the raw numbers. Nothing in it can be executed, and "
        "a program can read one tensor without loading the rest.",
    ),
)

DATA = (
    Facet(
        "In which format does XTuner want the data?",
        "What does the data file look like?",
        "The data is a JSONL file: one JSON value a line, one chat a row. A row is a list of messages; each message "
        "has a role and a content. Here is a row:\n\n"
        '[{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hello, how can I help?"}]',
    ),
    Facet(
        "Which roles can a message have?",
        "Which roles are there?",
        "The usual roles are system, user and assistant. A system message comes first and says how the assistant "
        "should behave. After it, user and assistant take turns, and the row ends with the assistant, because that is "
        "what the model learns.",
    ),
    Facet(
        "On which tokens is the loss computed?",
        "Does the model also learn what the user says?",
        "The loss is computed on what the assistant says and on the token that ends its turn. What the system and the "
        "user say is read, but it is masked and gives no loss. So the model learns to answer and also learns when to "
        "stop.",
    ),
    Facet(
        "What is packing?",
        "What does packing mean?",
        "Chats have different lengths. Packing puts several of them into one sequence of fixed length, so little of "
        "the computation is spent on padding. The chats in a pack cannot see each other: attention ends at the "
        "border. The flag `--pack-max-length` sets the length of the sequence in tokens.",
    ),
    Facet(
        "What happens to rows that are too long?",
        "And if a row is too long?",
        "A row may have at most as many tokens as `--max-length` says, and 4096 is the default. What is beyond is cut "
        "off, and XTuner counts such rows and reports the number. If many rows are cut, raise the limit or split the "
        "chats.",
    ),
    Facet(
        "What is a token?",
        "And what is a token?",
        "A token is a piece of text that the model reads or writes in one step. It may be a whole word, a part of a "
        "word, a digit or a sign. The tokenizer splits the text and gives each piece a number. In English a token is "
        "about four letters long on average for large vocabularies.",
    ),
)

RUNS = (
    Facet(
        "How do I start a training with XTuner?",
        "How do I start the training?",
        "Name the model, the data and the number of steps:\n\n"
        "xtuner sft --load-from MODEL_DIR --dataset chats.jsonl --total-step 100 --work-dir work_dirs\n\n"
        "XTuner checks the options, the model and the data first. Only then does it start one process for each device.",
    ),
    Facet(
        "Can I see the command before anything runs?",
        "Can I look at it without starting?",
        "Yes. Add `--dry-run`. XTuner then checks the options and the model, prints the torchrun command and the "
        "resolved options, and stops.",
    ),
    Facet(
        "How do I watch a run that is already going?",
        "And how do I follow it?",
        "Run `xtuner monitor WORK_DIR` in another terminal. It reads the files that the run writes and shows the step, "
        "the loss and the speed. Closing the monitor does not touch the training.",
    ),
    Facet(
        "How can I list my runs?",
        "How do I find older runs?",
        "Run `xtuner runs WORK_DIR`. Each run has a directory of its own in the work dir, with its log, its options "
        "and its results, and the command lists them.",
    ),
    Facet(
        "Where is the model after the training?",
        "And where is the trained model?",
        "The trained model is in the run directory, as a Hugging Face directory with weights, config, tokenizer and "
        "chat template. The link hf-latest points to the newest one. You can load it with transformers like any other "
        "model.",
    ),
    Facet(
        "What does it mean to resume a training?",
        "What does it mean to resume?",
        "To resume is to go on from a checkpoint instead of beginning again. For that a checkpoint must hold more than "
        "the weights: the state of the optimizer, the number of the step, the place in the data and the state of the "
        "random numbers. With all of these the run continues as if it had never stopped.",
    ),
    Facet(
        "What is the difference between a checkpoint and an exported model?",
        "Is a checkpoint the same as the exported model?",
        "A checkpoint is for training: it also holds the state of the optimizer, and its files are split the way the "
        "devices held them. An exported model is for use: it holds only the weights and the small files that are "
        "needed to load them. With AdamW a checkpoint is about three times as large as the weights alone.",
    ),
    Facet(
        "What should I do when the memory is not enough?",
        "And if the memory is not enough?",
        "First try `--fsdp-config.cpu-offload`, which keeps parameters, gradients and the state of the optimizer in "
        "host memory. Then lower `--pack-max-length`, because long sequences need more memory. It also helps to train "
        "on more devices, since each then holds a smaller share.",
    ),
)

LEARNING = (
    Facet(
        "What does the loss mean?",
        "What does the loss tell me?",
        "The loss says how surprised the model is by the text it should write. It is the mean of minus the logarithm "
        "of the probability of each token. A model that knows nothing about 2,048 tokens begins near 7.6, because "
        "that is the natural logarithm of 2,048. Lower is better, and a falling curve shows that the model learns.",
    ),
    Facet(
        "What is the learning rate?",
        "And what is the learning rate?",
        "The learning rate is the size of the steps in which the weights move. If it is too large, the loss jumps or "
        "grows; if it is too small, the loss hardly falls. It usually rises during a short warm-up and then falls "
        "slowly along a cosine. In XTuner the flag is `--lr`.",
    ),
    Facet(
        "Why does the learning rate start with a warm-up?",
        "Why is there a warm-up?",
        "In the first steps the optimizer has seen few gradients, and its estimates are rough. Large steps would then "
        "push the weights in poor directions. A warm-up begins with small steps and lets them grow, and after that the "
        "training is more stable.",
    ),
    Facet(
        "What is the gradient norm?",
        "What does the gradient norm show?",
        "The gradient norm is the length of the vector of all gradients. It says how strongly the data pulls at the "
        "weights. When it is above a limit, the gradients are scaled down to that limit, which is called clipping. In "
        "XTuner the limit is `--max-grad-norm`, and the default is 1.0.",
    ),
    Facet(
        "What does fine-tuning mean?",
        "So what does fine-tuning mean?",
        "Fine-tuning takes a model that has already learned a language and trains it a little further on chosen "
        "examples. A few hundred good chats can teach it a tone, a format or a task. The data should look like what "
        "you want to read later, because the model copies faults as gladly as virtues.",
    ),
    Facet(
        "What is overfitting?",
        "How do I notice overfitting?",
        "A model overfits when it learns the examples by heart instead of the rule behind them. The loss on the "
        "training data goes on falling, but answers to new questions get worse. Use more varied data, fewer passes "
        "over it, or a lower learning rate.",
    ),
)


_GUIDES = {
    "models and their directories": MODELS,
    "the data": DATA,
    "training runs": RUNS,
    "what happens while a model learns": LEARNING,
}


def dialogues() -> list[Dialogue]:
    """Every question alone, and chats that walk through each of the four groups, and a guide to each."""
    chats: list[Dialogue] = []
    for group in (MODELS, DATA, RUNS, LEARNING):
        chats += [chain(facet) for facet in group]
        chats += [chain(*group[i : i + 3]) for i in range(0, len(group) - 2, 2)]
        chats += [chain(group[-1], group[0])]
    chats += [chain(MODELS[1], MODELS[0], RUNS[0], RUNS[4]), chain(DATA[0], DATA[2], LEARNING[0], LEARNING[1])]
    chats += [chain(RUNS[5], MODELS[6]), chain(LEARNING[4], DATA[0], RUNS[0], RUNS[2])]
    return chats + [(_guide(topic, group),) for topic, group in _GUIDES.items()]


def _guide(topic: str, group: tuple[Facet, ...]) -> Turn:
    sections = "\n\n".join(f"## {facet.ask}\n\n{facet.answer}" for facet in group[:5])
    return Turn(f"Write me a guide to {topic} in XTuner, with a heading for each question.", sections)

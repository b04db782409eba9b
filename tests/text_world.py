"""A small world of texts: a BERT of some hundred kilobytes, with its own tokenizer."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

COLOURS = ("red", "green", "blue", "black", "white", "yellow", "purple", "orange")
THINGS = ("shoe", "shirt", "lamp", "chair", "table", "mug", "pen", "clock")
REMARKS = ("new", "old", "small", "large", "cheap", "fine", "plain", "light", "the", "with", "a")
WORDS = (*COLOURS, *THINGS, *REMARKS)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

BERT = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 512,
}  # fmt: skip


def write_tokenizer(folder: Path, *, padding: str = "named") -> int:
    """A word for word tokenizer; its padding ``named`` beside it, ``inside`` it, or ``missing``.

    Returns the number of its tokens.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        WORDS, trainers.WordLevelTrainer(special_tokens=list(SPECIAL), show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if padding == "inside":
        tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    if padding == "named":
        (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def write_model(folder: Path, **changed: object) -> Path:
    """A folder as ``save_pretrained`` leaves one, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({**BERT, "vocab_size": size, **changed}))
    return folder


def texts(seed: int = 0, each: int = 6) -> tuple[list[str], np.ndarray]:
    """Texts and (n,) labels: a class is a coloured thing, an item words it in its own way."""
    rng = np.random.default_rng(seed)
    classes = [(colour, thing) for colour in COLOURS for thing in THINGS]
    found = []
    for colour, thing in (pair for pair in classes for _ in range(each)):
        words = [colour, thing, *rng.choice(REMARKS, rng.integers(1, 4))]
        found.append(" ".join(rng.permutation(words)))
    return found, np.arange(len(classes)).repeat(each)

"""Texts into token ids: the same for training, export and serving.

A ``Tokeniser`` is the text of a ``tokenizer.json`` with padding and cut set. That text travels
inside the trained model and inside the exported one, so that nobody tokenises with another file.
Every text becomes a row of equal length, so a text's row never depends on its neighbours. The
library ``tokenizers`` is imported when the first tokeniser is made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.strict import first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TokenIds = NDArray[np.int64]
"""Token ids, a text in each row, padding at its end."""

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Of a model's folder: the tokenizer, and what may name its padding token."""

# These cannot tokenise a word they do not know, unless one token stands for all such words.
_CLOSED = ("WordLevel", "WordPiece", "Unigram")
_BATCH = 4096


class TokeniserError(ValueError):
    """A tokenizer that is missing or cannot be used; one line with the remedy."""


class TextError(ValueError):
    """A text that cannot be read; ``place`` is its place among the texts."""

    def __init__(self, place: int, reason: str) -> None:
        """``reason`` says what is wrong and what was expected."""
        super().__init__(f"text {place}: {reason}")
        self.place, self.reason = place, reason


class Tokeniser:
    """Texts to (n, ``tokens``) ids under one definition."""

    definition: str
    """What ``tokenizer.json`` holds, padding and cut included: all that it takes to rebuild it."""
    tokens: int
    """Length of every row; what a text has beyond it is cut off."""
    padding: int
    """The id behind the end of a text."""
    vocabulary: int
    """Ids are below this number."""
    closing: bool
    """Whether the padding id also ends every text, as in CLIP: its first one is no padding."""

    def __init__(self, definition: str, where: str) -> None:
        """``definition`` with padding to a fixed length; ``where`` names its source in errors.

        Raises ``TokeniserError`` where it cannot be used or ``tokenizers`` is not installed.
        """
        tokenizer = _parsed(definition, where)
        padding: dict[str, Any] | None = tokenizer.padding
        if padding is None or padding["length"] is None or tokenizer.truncation is None:
            raise TokeniserError(f"{where}: expected padding and truncation to a fixed length")
        self._tokenizer = tokenizer
        self.definition = definition
        self.tokens = int(padding["length"])
        self.padding = int(padding["pad_id"])
        self.vocabulary = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self._unknown = _unknown(tokenizer, where)
        empty = tokenizer.encode("")
        length = sum(empty.attention_mask)
        self.closing = length > 0 and empty.ids[length - 1] == self.padding

    def ids(self, texts: Sequence[object]) -> TokenIds:
        """(n, tokens) ids of ``texts``; ``TextError`` for the first that cannot be read."""
        ids, reasons = self.read(texts)
        if reasons:
            raise TextError(min(reasons), reasons[min(reasons)])
        return ids

    def read(self, texts: Sequence[object]) -> tuple[TokenIds, dict[int, str]]:
        """(n, tokens) ids of the ``texts``, and why some of them cannot be read, by place.

        A text is cut off at ``tokens``, special ones included. Not readable, their rows being
        meaningless: what is no text, and a text without any known token before the cut: all
        such texts would match each other.
        """
        reasons = {place: reason for place, text in enumerate(texts) if (reason := _fault(text))}
        kept = ["" if place in reasons else str(text) for place, text in enumerate(texts)]
        ids = np.empty((len(kept), self.tokens), np.int64)
        known = np.zeros(len(kept), np.bool_)
        for start in range(0, len(kept), _BATCH):
            part = slice(start, start + _BATCH)
            found = self._tokenizer.encode_batch(kept[part])
            ids[part] = [one.ids for one in found]
            own = np.asarray([one.special_tokens_mask for one in found]) == 0
            own &= (ids[part] != self.padding) & (ids[part] != self._unknown)
            known[part] = own.any(axis=1)
        for place in np.flatnonzero(~known).tolist():
            reasons.setdefault(place, "none of its tokens is known to the tokenizer; expected "
                                      f"a known word among the first {self.tokens} tokens")
        return ids, reasons


def tokeniser_in(folder: Path, tokens: int) -> Tokeniser:
    """The tokeniser of a model's ``folder``, cut and padded to ``tokens``.

    Padding as in ``tokenizer.json``, or with the ``pad_token`` that the files beside it name.
    Raises ``TokeniserError`` where there is no tokenizer or no padding token.
    """
    path = folder / FILES[0]
    if not path.is_file():
        raise TokeniserError(
            f"{path}: no such file; a text model needs its fast tokenizer there: "
            "AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER) writes it"
        )
    tokenizer = _parsed(path.read_text(encoding="utf-8"), str(path))
    name = (tokenizer.padding or {}).get("pad_token") or _padding_named(folder)
    number = None if name is None else tokenizer.token_to_id(name)
    if number is None:
        raise TokeniserError(
            f"{path}: no padding token; expected \"padding\" in it, or \"pad_token\" in "
            f"{FILES[1]} beside it, naming one of its tokens"
        )
    if tokens <= (special := tokenizer.num_special_tokens_to_add(False)):
        raise TokeniserError(
            f"model.tokens: {tokens}; expected more than the {special} that {path} adds to a text"
        )
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(length=tokens, pad_id=number, pad_token=name)
    return Tokeniser(tokenizer.to_str(), str(path))


def _parsed(definition: str, where: str) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise TokeniserError(
            f"{where}: texts need the package tokenizers: pip install 'limen[models]'"
        ) from error
    try:
        return Tokenizer.from_str(definition)
    except Exception as error:  # tokenizers raises nothing more special
        raise TokeniserError(f"{where}: not a usable tokenizer: {first_line(error)}") from error


def _unknown(tokenizer: Tokenizer, where: str) -> int | None:
    """The id that stands for what is in no vocabulary; None where there is no such id."""
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    name = model.get("unk_token")
    number: int | None = model.get("unk_id") if name is None else tokenizer.token_to_id(name)
    if number is None and model["type"] in _CLOSED:
        raise TokeniserError(f"{where}: no unknown token; expected one, since texts hold new words")
    return number


def _padding_named(folder: Path) -> str | None:
    """The ``pad_token`` of the files that lie beside a tokenizer."""
    for path in (folder / name for name in FILES[1:]):
        if path.is_file():
            named = json.loads(path.read_text(encoding="utf-8")).get("pad_token")
            content = named.get("content") if isinstance(named, dict) else named
            if isinstance(content, str):
                return content
    return None


def _fault(text: object) -> str | None:
    if not isinstance(text, str):
        return f"{type(text).__name__}; expected a text"
    if not text.strip():
        return "no text; expected at least one character that is no space"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "not valid Unicode; expected no lone surrogates"
    return None

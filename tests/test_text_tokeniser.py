"""Texts into token ids: one definition that travels, rows that depend on their own text only."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pipeline.data.items import Items, ItemsError
from pipeline.data.texts import tokenise_all
from pipeline.data.tokeniser import TextError, Tokeniser, TokeniserError, tokeniser_in
from pipeline.models.config import ModelConfig
from pipeline.models.text_tokeniser import tokeniser_of
from tests.text_world import WORDS, write_model, write_tokenizer

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def by_hand(folder, text, tokens):
    """The ids of ``text`` looked up word for word."""
    entries = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = [entries.get(word, entries["[UNK]"]) for word in text.split()][: tokens - 2]
    row = [entries["[CLS]"], *words, entries["[SEP]"]]
    return row + [entries["[PAD]"]] * (tokens - len(row))


@given(st.lists(st.sampled_from([*WORDS, "unheard"]), min_size=1, max_size=12), st.integers(3, 10))
def test_a_text_is_its_words_cut_and_padded_to_the_same_length(folder, words, tokens):
    text = " ".join(words)
    tokeniser = tokeniser_in(folder, tokens)
    ids, reasons = tokeniser.read([text])
    expected = by_hand(folder, text, tokens)
    np.testing.assert_array_equal(ids, [expected])
    assert bool(reasons) == (not set(expected) - {0, 1, 2, 3})
    assert ids.dtype == np.int64


def test_a_row_is_the_same_alone_and_beside_others(folder):
    tokeniser = tokeniser_in(folder, 6)
    texts = ["red shoe", "the old blue lamp with a small red pen", "mug"]
    together = tokeniser.ids(texts)
    for row, text in zip(together, texts, strict=True):
        np.testing.assert_array_equal(tokeniser.ids([text])[0], row)
    assert tokeniser.ids([]).shape == (0, 6)


def test_the_definition_alone_rebuilds_the_tokeniser(folder):
    first = tokeniser_in(folder, 6)
    again = Tokeniser(first.definition, "a release")
    assert again.definition == first.definition
    assert (again.tokens, again.padding, again.closing) == (6, 0, False)
    assert again.vocabulary == len(WORDS) + 4
    np.testing.assert_array_equal(again.ids(["red shoe new"]), first.ids(["red shoe new"]))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no text"),
        (" \n\t", "no text"),
        (None, "NoneType; expected a text"),
        (7, "int; expected a text"),
        (b"red", "bytes; expected a text"),
        ("red \ud800", "not valid Unicode"),
        ("zzz yyy", "none of its tokens is known"),
        ("zzz zzz zzz zzz red", "known word among the first 6 tokens"),  # cut before the word
        ("[PAD]", "none of its tokens is known"),
    ],
)
def test_what_is_no_text_or_has_no_known_word_is_refused_by_its_place(folder, text, reason):
    tokeniser = tokeniser_in(folder, 6)
    with pytest.raises(TextError, match=f"text 1: .*{reason}") as refused:
        tokeniser.ids(["red shoe", text, ""])
    assert refused.value.place == 1
    # A bad text leaves the rows beside it as they are.
    ids, reasons = tokeniser.read(["red shoe", text, "blue"])
    assert list(reasons) == [1]
    np.testing.assert_array_equal(ids[[0, 2]], tokeniser.ids(["red shoe", "blue"]))


def test_an_unknown_word_beside_known_ones_stays_a_token(folder):
    ids = tokeniser_in(folder, 6).ids(["red zzz", "red"])
    assert ids[0, 2] == 1
    assert (ids[0] != ids[1]).sum() == 2  # [UNK] [SEP] instead of [SEP] [PAD]


def test_padding_is_named_inside_the_tokenizer_or_beside_it(tmp_path):
    rows = []
    for way in ("inside", "named"):
        (tmp_path / way).mkdir()
        write_tokenizer(tmp_path / way, padding=way)
        rows.append(tokeniser_in(tmp_path / way, 6).ids(["red shoe"]))
    np.testing.assert_array_equal(*rows)
    # Older folders name it in another file, and as a mapping.
    (tmp_path / "named" / "tokenizer_config.json").unlink()
    (tmp_path / "named" / "special_tokens_map.json").write_text('{"pad_token": {"content": "red"}}')
    assert tokeniser_in(tmp_path / "named", 6).padding == by_hand(tmp_path / "named", "red", 3)[1]


def test_a_tokenizer_that_cannot_be_used_is_refused_with_the_remedy(tmp_path, folder):
    with pytest.raises(TokeniserError, match=r"tokenizer.json: no such file; .*save_pretrained"):
        tokeniser_in(tmp_path, 6)
    write_tokenizer(tmp_path, padding="missing")
    with pytest.raises(TokeniserError, match=r"no padding token; expected .*pad_token"):
        tokeniser_in(tmp_path, 6)
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "[NONE]"}')
    with pytest.raises(TokeniserError, match="no padding token"):
        tokeniser_in(tmp_path, 6)
    for content in ("", "{}", "text"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(TokeniserError, match="not a usable tokenizer"):
            tokeniser_in(tmp_path, 6)
    with pytest.raises(TokeniserError, match=r"model.tokens: 2; expected more than the 2 that"):
        tokeniser_in(folder, 2)
    plain = (folder / "tokenizer.json").read_text()
    with pytest.raises(TokeniserError, match="here: expected padding and truncation"):
        Tokeniser(plain, "here")


def test_a_tokenizer_without_a_token_for_unknown_words_is_refused(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"red": 0, "[PAD]": 1}))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "[PAD]"}')
    with pytest.raises(TokeniserError, match="no unknown token"):
        tokeniser_in(tmp_path, 6)


def test_a_padding_token_that_also_closes_texts_is_told_apart(tmp_path):
    # As in CLIP: the end of a text and the padding behind it are one token.
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "red": 1, "<s>": 2, "</s>": 3}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "</s>"}')
    tokeniser = tokeniser_in(tmp_path, 5)
    assert tokeniser.closing
    np.testing.assert_array_equal(tokeniser.ids(["red"]), [[2, 1, 3, 3, 3]])


def test_a_backbone_of_another_kind_brings_no_tokeniser():
    with pytest.raises(TokeniserError, match=r"'cnn' reads no text; expected 'transformers:NAME'"):
        tokeniser_of(ModelConfig())


def test_a_name_needs_the_hub_and_says_so_where_it_is_out_of_reach(tmp_path):
    code = (
        "from pipeline.models.config import ModelConfig\n"
        "from pipeline.models.text_tokeniser import tokeniser_of\n"
        "tokeniser_of(ModelConfig(backbone='transformers:someone/something'))"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment,
                          capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "no tokenizer of 'someone/something'" in last
    assert "transformers:./FOLDER" in last


def test_tokenising_imports_no_torch_and_a_missing_package_is_named():
    code = (
        "import sys\n"
        "sys.modules['tokenizers'] = None\n"
        "from pipeline.data.tokeniser import Tokeniser\n"
        "import pipeline.models.text_tokeniser, pipeline.data.texts\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "Tokeniser('{}', 'model.onnx')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "model.onnx: texts need the package tokenizers: pip install 'limen[models]'" in last


def items(texts):
    names = np.asarray([f"i{row}" for row in range(len(texts))], object)
    blank = np.full(len(texts), "x", object)
    return Items(item_id=names, label=blank, customer=blank, role=blank, split=blank, kind="text",
                 content=np.asarray(texts, object), metadata=pa.table({}))


def test_items_keep_their_ids_beside_them_and_bad_ones_are_set_aside(folder, tmp_path):
    tokeniser, table = tokeniser_in(folder, 6), items(["red shoe", "zzz", "mug", "yyy"])
    with pytest.raises(ItemsError, match=r"a.csv: row 1 \(item 'i1'\), column 'text': none of its"):
        tokenise_all(table, tokeniser, source="a.csv")
    kept, ids = tokenise_all(table, tokeniser, source="a.csv", rejected=tmp_path / "bad.parquet")
    assert kept.item_id.tolist() == ["i0", "i2"]
    np.testing.assert_array_equal(ids, tokeniser.ids(["red shoe", "mug"]))
    rejected = pq.read_table(tmp_path / "bad.parquet").to_pylist()
    assert [row["item_id"] for row in rejected] == ["i1", "i3"]
    assert all("known" in row["reason"] for row in rejected)
    with pytest.raises(ItemsError, match=r"a\.csv: none of 1 texts can be read"):
        tokenise_all(items(["zzz"]), tokeniser, source="a.csv", rejected=tmp_path / "all.parquet")

"""Token ids are made once and are those that tokenising on the fly gives."""

import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import FAMILIES, FAMILY_SIZE
from hypothesis import given
from hypothesis import strategies as st

from mlim.data.collate import ItemCollator, Pair, PairCollator
from mlim.data.tokenize import TextTokenizer
from mlim.data.tokens import prepare_tokens, tokens_of
from mlim.errors import MlimError
from mlim.shards.items import ItemStore
from mlim.shards.mapped import MappedTable

IDS = [f"item-{number:03d}" for number in range(FAMILIES * FAMILY_SIZE)]


@pytest.fixture(scope="module")
def store(tiny_workspace, tmp_path_factory):
    index = tiny_workspace.valid / "index.parquet"
    return ItemStore.open(tiny_workspace.items, index, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tokenizer(store):
    return TextTokenizer.learn((store.text(item) for item in store.ids), 128)


@pytest.fixture(scope="module")
def tokens(store, tokenizer, tmp_path_factory):
    return prepare_tokens(store, tokenizer, tmp_path_factory.mktemp("tokens"))


@given(st.sampled_from(IDS), st.integers(0, 40))
def test_prepared_ids_are_those_of_the_text(store, tokenizer, tokens, item, limit):
    assert tokens.ids(item, limit) == tokenizer.encode(store.text(item), limit)


@given(st.lists(st.text(max_size=60), max_size=8))
def test_many_texts_are_encoded_like_each_alone(tokenizer, texts):
    assert tokenizer.encode_all(texts) == [tokenizer.encode(text, 10_000) for text in texts]


def test_batches_are_the_same_with_and_without_prepared_ids(store, tokenizer, tokens):
    now, before = ItemCollator(store, tokenizer, 6), ItemCollator(store, tokenizer, 6, tokens)
    for one, other in zip(now(IDS), before(IDS), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    pairs = [Pair(a, b, 1) for a, b in zip(IDS[:5], IDS[5:10], strict=True)]
    now, before = PairCollator(store, tokenizer, 6), PairCollator(store, tokenizer, 6, tokens)
    assert torch.equal(now(pairs).second.tokens, before(pairs).second.tokens)


def test_a_collator_travels_to_a_worker_without_its_data(store, tokenizer, tokens):
    collate = ItemCollator(store, tokenizer, 6, tokens)
    sent = pickle.dumps(collate)
    assert len(sent) < 2000 + 4 * len(tokenizer._tokenizer.to_str())
    again = pickle.loads(sent)
    assert torch.equal(again(IDS[:3]).input_ids, collate(IDS[:3]).input_ids)
    assert again.tokenizer.encode("red [SEP] [MASK]", 9) == tokenizer.encode("red [SEP] [MASK]", 9)


def test_texts_are_tokenised_once_for_a_tokenizer_and_an_index(store, tokenizer, tmp_path, own_workspace):
    prepare_tokens(store, tokenizer, tmp_path)
    (made,) = tmp_path.glob("tokens-*")
    first = made.stat().st_mtime_ns, made.read_bytes()
    prepare_tokens(store, tokenizer, tmp_path)
    assert (made.stat().st_mtime_ns, made.read_bytes()) == first
    prepare_tokens(store, TextTokenizer.learn(["red", "red"], 64), tmp_path)
    index = own_workspace.valid / "index.parquet"
    pq.write_table(pq.read_table(index).slice(1), index)
    prepare_tokens(ItemStore.open(own_workspace.items, index), tokenizer, tmp_path)
    assert len(list(tmp_path.glob("tokens-*"))) == 3
    made.unlink()
    prepare_tokens(store, tokenizer, tmp_path)
    assert made.read_bytes() == first[1]


def test_a_token_takes_two_bytes(store, tokenizer, tmp_path):
    prepare_tokens(store, tokenizer, tmp_path)
    (made,) = tmp_path.glob("tokens-*")
    assert MappedTable(made).table["tokens"].type.value_type.to_pandas_dtype() is np.uint16


def test_a_cache_that_cannot_be_written_is_explained(store, tokenizer, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MlimError, match=r"cannot be written .*free space"):
        prepare_tokens(store, tokenizer, tmp_path / "file" / "cache")


def test_a_few_texts_are_tokenised_alone_and_most_with_all_others(store, tokenizer, tokens, tmp_path):
    rows = np.array([1, 4, 5])
    cache, passing = tmp_path / "cache", tmp_path / "passing"
    few = tokens_of(store, tokenizer, cache, rows, passing)
    assert not list(cache.glob("tokens-*"))
    assert few.at(rows[1:], 40) == tokens.at(rows[1:], 40)
    assert few.ids(store.ids[5], 3) == tokens.ids(store.ids[5], 3)
    every = np.arange(len(store))
    assert tokens_of(store, tokenizer, cache, every, passing).at(every, 40) == tokens.at(every, 40)
    assert len(list(cache.glob("tokens-*"))) == 1
    again = tokens_of(store, tokenizer, cache, rows, tmp_path / "unused")
    assert again.at(rows, 40) == tokens.at(rows, 40)
    assert not (tmp_path / "unused").exists()

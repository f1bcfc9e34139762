from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from mlim.data.tokenize import SPECIAL_TOKENS, TextTokenizer, _count_words, _to_private
from mlim.errors import InputError

TEXTS = [
    f"Brand: {brand} | Colour: {colour} | {kind} size {size} Café-style"
    for brand in ("Nike", "Adidas", "Acme")
    for colour in ("red", "light blue", "dark green")
    for kind in ("running shoe", "t-shirt", "水筒 bottle")
    for size in range(3)
]


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.learn(TEXTS, 200)


def test_specials_have_the_ids_the_network_expects(tokenizer):
    assert [tokenizer.pad, tokenizer.unknown, tokenizer.cls, tokenizer.sep, tokenizer.mask] == [0, 1, 2, 3, 4]
    assert tokenizer.tokens(range(5)) == list(SPECIAL_TOKENS)


def test_frequent_words_are_whole_pieces_and_case_and_accents_do_not_matter(tokenizer):
    assert tokenizer.tokens(tokenizer.encode("NIKE Café", 40)) == ["nike", "cafe"]
    assert "##" in "".join(tokenizer.tokens(tokenizer.encode("shoered", 40)))


def test_the_vocabulary_stays_within_its_size():
    for size in (64, 80, 120):
        assert TextTokenizer.learn(TEXTS, size).vocabulary_size <= size


@given(st.text(max_size=80), st.integers(0, 20))
def test_any_text_gives_known_ordinary_ids_and_respects_the_limit(tokenizer, text, limit):
    ids = tokenizer.encode(text + " [SEP] [MASK] [PAD] [CLS]", limit)
    assert len(ids) <= limit
    assert all(0 <= index < tokenizer.vocabulary_size for index in ids)
    assert not {tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask} & set(ids)


def test_an_empty_text_has_no_tokens(tokenizer):
    assert tokenizer.encode("", 10) == []


@given(st.lists(st.text(max_size=30), max_size=10))
def test_learning_survives_any_texts(texts):
    assert TextTokenizer.learn(texts, 64).vocabulary_size >= len(SPECIAL_TOKENS)


@given(st.text())
def test_words_are_what_the_library_finds_in_the_whole_text(text):
    normalise, split = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    whole = split.pre_tokenize_str(normalise.normalize_str(text))
    assert _count_words([text]) == Counter(_to_private(word) for word, _ in whole)


def test_saving_and_reading_back_changes_nothing(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = TextTokenizer.from_folder(tmp_path)
    text = "Brand: Nike [SEP] unknownword 水"
    assert again.encode(text, 40) == tokenizer.encode(text, 40)
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_a_bert_vocabulary_file_can_be_read(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "Shoe", "shoe", "##s"]), encoding="utf-8")
    assert TextTokenizer.from_folder(tmp_path).encode("Shoes", 9) == [6, 7]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    assert TextTokenizer.from_folder(tmp_path).encode("Shoes", 9) == [5, 7]


@pytest.mark.parametrize("content", [None, "{", '{"version": "1.0"}'])
def test_a_folder_without_a_usable_tokenizer_is_an_input_error(content, tmp_path):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=str(tmp_path)):
        TextTokenizer.from_folder(tmp_path)


def test_a_tokenizer_without_berts_special_tokens_is_an_input_error(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\nshoe", encoding="utf-8")
    with pytest.raises(InputError, match=r"\[MASK\]"):
        TextTokenizer.from_folder(tmp_path)

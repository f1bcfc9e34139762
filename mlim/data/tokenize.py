"""Text to token ids: BERT's WordPiece, learned from the catalog or brought by a pre-trained start."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers import (
    __version__ as library_version,
)

from mlim.errors import InputError
from mlim.files import atomic_file, sha256_of_bytes

TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILE = "vocab.txt"
SETTINGS_FILE = "tokenizer_config.json"

PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"
MAX_WORD_CHARACTERS = 100  # BERT's limit: a longer word is one [UNK]
MIN_FREQUENCY = 2  # a piece seen once teaches nothing
ALPHABET_SHARE = 4  # single characters take at most 1/4 of the vocabulary, so that odd scripts leave room for words

# Inside `learn`, a character that continues a word is moved to Unicode's private planes; BERT's normaliser has
# removed every private character of the texts before.
PRIVATE_OFFSET = 0xF0000
LAST_MOVABLE = 0x10FFFF - PRIVATE_OFFSET


class TextTokenizer:
    """WordPiece with BERT's normaliser (lower case, accents stripped) and BERT's five special tokens.

    Special tokens are never read out of a text: a product called "[SEP]" is spelled in ordinary pieces.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a `tokenizers` tokenizer; `InputError` when it lacks one of BERT's special tokens."""
        special = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
        missing = [token for token, number in special.items() if number is None]
        if missing:
            raise InputError(f"the tokenizer has no {', '.join(missing)}; use one of the BERT family (WordPiece)")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        numbers = [number for number in special.values() if number is not None]  # all of them, as just checked
        self.pad, self.unknown, self.cls, self.sep, self.mask = numbers

    def __reduce__(self) -> tuple[Callable[[str], "TextTokenizer"], tuple[str]]:
        return _from_json, (self._tokenizer.to_str(),)  # the library's own pickling forgets `encode_special_tokens`

    @classmethod
    def learn(cls, texts: Iterable[str], vocabulary_size: int) -> Self:
        """Learn at most `vocabulary_size` pieces; the same texts give the same vocabulary in every process."""
        return cls(_wordpiece(_learn_vocabulary(texts, vocabulary_size), lowercase=True))

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read `tokenizer.json`, or else BERT's `vocab.txt`; `InputError` when neither can be used."""
        try:
            if (folder / TOKENIZER_FILE).is_file():
                return cls(Tokenizer.from_str((folder / TOKENIZER_FILE).read_text(encoding="utf-8")))
            if (folder / VOCABULARY_FILE).is_file():
                return cls(_from_vocabulary(folder))
        except InputError as error:
            raise InputError(f"{folder}: {error}") from None
        except Exception as error:  # the library raises bare Exception for a malformed file
            raise InputError(f"{folder}: the tokenizer cannot be read ({error}); save the model again") from None
        raise InputError(
            f"{folder}: has neither {TOKENIZER_FILE} nor {VOCABULARY_FILE}; give a folder of a saved model"
        )

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` into `folder`, atomically; equal tokenizers give equal bytes."""
        with atomic_file(folder / TOKENIZER_FILE) as temporary:
            temporary.write_text(self._tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """The ids of the first `max_tokens` pieces, without [CLS] and [SEP]; empty for an empty text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids[:max_tokens]

    def end_of(self, text: str, max_tokens: int) -> int:
        """How many characters of a text its first `max_tokens` pieces cover; its length where it has no more pieces."""
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return int(offsets[max_tokens - 1][1]) if len(offsets) > max_tokens else len(text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of all pieces of every text, as `encode` gives them without a limit."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The piece behind every id (`##` marks one that continues a word)."""
        return [str(self._tokenizer.id_to_token(int(index))) for index in ids]

    def text(self, ids: Sequence[int]) -> str:
        """The words of ids, without the spaces that the tokenizer does not keep."""
        return " ".join(self.tokens(ids)).replace(f" {CONTINUATION}", "").removeprefix(CONTINUATION)

    @property
    def fingerprint(self) -> str:
        """Names what a text becomes: equal for tokenizers that give equal ids."""
        return sha256_of_bytes(f"{library_version} {self._tokenizer.to_str()}".encode())

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, special tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))


def _from_json(text: str) -> TextTokenizer:
    return TextTokenizer(Tokenizer.from_str(text))


def _wordpiece(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    model = models.WordPiece(
        vocab=vocabulary,
        unk_token=UNKNOWN,
        continuing_subword_prefix=CONTINUATION,
        max_input_chars_per_word=MAX_WORD_CHARACTERS,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION)
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocabulary])
    return tokenizer


def _from_vocabulary(folder: Path) -> Tokenizer:
    settings = folder / SETTINGS_FILE
    lowercase = (
        json.loads(settings.read_text(encoding="utf-8")).get("do_lower_case", True) if settings.is_file() else True
    )
    pieces = (folder / VOCABULARY_FILE).read_text(encoding="utf-8").splitlines()
    return _wordpiece({piece: index for index, piece in enumerate(pieces)}, lowercase=lowercase)


def _learn_vocabulary(texts: Iterable[str], vocabulary_size: int) -> dict[str, int]:
    """Piece -> id.

    The library's WordPieceTrainer numbers the `##` characters in hash order, so its result differs between processes.
    It is its BPE trainer with a prefix; BPE without a prefix is deterministic, hence the private characters.
    """
    words = _count_words(texts)
    alphabet = _alphabet(words, vocabulary_size // ALPHABET_SHARE)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator((" ".join([word] * count) for word, count in sorted(words.items())), trainer)
    pieces = sorted(learner.get_vocab().items(), key=lambda entry: entry[1])
    return {_from_private(piece): index for index, (piece, _) in enumerate(pieces)}


def _count_words(texts: Iterable[str]) -> Counter[str]:
    normalise = normalizers.BertNormalizer(lowercase=True).normalize_str
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    parts: Counter[str] = Counter()  # what stands between spaces is normalised and split by itself, so once is enough
    for text in texts:
        parts.update(text.split(" "))
    private: Counter[str] = Counter()
    for part, count in parts.items():
        for word, _ in split(normalise(part)):
            private[_to_private(word)] += count
    return private


def _alphabet(words: Counter[str], limit: int) -> list[str]:
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    return sorted(sorted(counts, key=lambda character: (-counts[character], character))[:limit])


def _to_private(word: str) -> str:
    return word[0] + "".join(chr(ord(c) + PRIVATE_OFFSET) for c in word[1:] if ord(c) <= LAST_MOVABLE)


def _from_private(piece: str) -> str:
    if ord(piece[0]) < PRIVATE_OFFSET:
        return piece[0] + _plain(piece[1:])
    return CONTINUATION + _plain(piece)


def _plain(characters: str) -> str:
    return "".join(chr(ord(c) - PRIVATE_OFFSET) if ord(c) >= PRIVATE_OFFSET else c for c in characters)

"""The tokenizer: byte-level BPE, trained by `rustbpe`, encoded by `tiktoken`, kept as the `tokenizer.json` others load.

All three give the same ids. Special tokens stand first, named as in DeepSeek-V3's release (bos 0, eos 1, pad 2); plain
text never yields one, even where it spells one. A user's own tokenizer.json, of whatever kind, is encoded by `tokenizers`
itself, unless it is a byte-level BPE by V3's rules, as the released one is.
"""

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers import Tokenizer as JsonTokenizer

from sapience.corpus.pretokenizer import Digits, json_pre_tokenizer, single_pattern
from sapience.corpus.token_bytes import BYTE_OF, CHARACTER_OF, bytes_of, spelling_of
from sapience.recipe.errors import UserError
from sapience.run import write_atomically

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
FIM_BEGIN, FIM_HOLE, FIM_END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
TOOLS = (
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
    "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>",
)  # fmt: skip
"""What V3.1's chat template writes around function calls and their results."""
SPECIAL = (BOS, EOS, PAD, FIM_BEGIN, FIM_HOLE, FIM_END, USER, ASSISTANT, *TOOLS, "<|EOT|>")
"""Ids 0 to 15, named as in the release."""
FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
DIGITS: tuple[Digits, ...] = (1, 3)
BYTES = 256
_CHARACTERS_FOR_THREADS = 100_000
"""Some 30 ms of one processor; below, threads cost more than they save."""

_SURROGATES = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """Text to ids and back. Special are the tokens marked so in the file, and those with a role in V3's formats: the
    released file does not mark its role, fill-in-the-middle and tool tokens."""

    def __init__(self, document: dict[str, Any], roles: Mapping[str, str] | None = None) -> None:
        """`document` is the content of a tokenizer.json; `roles` name its bos_token, eos_token and pad_token where
        they are not called as in DeepSeek-V3's release."""
        roles = roles or {}
        self.document = document
        self._json = _text_only(document)
        self.vocab_size = self._json.get_vocab_size(with_added_tokens=True)
        entries = document.get("added_tokens", [])
        self.special: dict[str, int] = {entry["content"]: entry["id"] for entry in entries if _is_special(entry)}
        self.eos_id = _special(self.special, roles.get("eos_token", EOS), "end of a text", "eos_token")
        bos = roles.get("bos_token", BOS if BOS in self.special else roles.get("eos_token", BOS))
        self.bos_id = _special(self.special, bos, "beginning of a text", "bos_token")
        self.pad_id = self.special.get(roles.get("pad_token", PAD), self.eos_id)
        if (
            self.pad_id == self.eos_id
        ):  # as the released tokenizer_config.json has it, beside a token that is made for it
            self.pad_id = self.special.get(PAD, self.eos_id)
        self._added = {entry["content"] for entry in entries}
        self._words = self._added - set(self.special)
        self._spelling = spelling_of(document)
        self._fast = _tiktoken_of(document)
        self._bytes: dict[int, bytes] = {}

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        """From a tokenizer.json or a folder that holds one. Raises UserError where it is missing or damaged."""
        file = path / FILE if path.is_dir() else path
        try:
            return Tokenizer(json.loads(file.read_text(encoding="utf-8")), _roles(file.with_name(CONFIG)))
        except FileNotFoundError:
            raise UserError(f"no {file}: a model folder needs its tokenizer.json") from None
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{file} is no tokenizer that can be read ({error})") from None

    def save(self, folder: Path, chat_template: str | None = None) -> None:
        """Write tokenizer.json and the tokenizer_config.json that transformers looks for; a model that was taught to
        answer has a chat template there."""
        write_atomically(folder / FILE, json.dumps(self.document, ensure_ascii=False))
        names = {index: name for name, index in self.special.items()}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": names[self.bos_id],
            "eos_token": names[self.eos_id],
            "pad_token": names[self.pad_id],
            "add_bos_token": True,
            "clean_up_tokenization_spaces": False,
        }
        if chat_template is not None:
            config["chat_template"] = chat_template
        write_atomically(folder / CONFIG, json.dumps(config, ensure_ascii=False, indent=1))

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: no bos, no eos, never a special token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts. Characters that UTF-8 cannot hold (lone surrogates) become U+FFFD."""
        clean = [_SURROGATES.sub("\ufffd", text) for text in texts]
        if self._fast is not None:
            encode = partial(self._fast.encode, allowed_special=self._words, disallowed_special=())
            if len(clean) < 2 or sum(map(len, clean)) < _CHARACTERS_FOR_THREADS:
                return [encode(text) for text in clean]
            with ThreadPoolExecutor() as pool:
                return list(pool.map(encode, clean))
        return [encoding.ids for encoding in self._json.encode_batch(clean, add_special_tokens=False)]

    def decode(self, ids: Sequence[int], continued: bool = False) -> str:
        """Text of ids; special tokens are written out, bytes that are no UTF-8 become U+FFFD.

        Some tokenizers put a blank before a text; it is taken off again, unless the ids go on with an earlier text.
        """
        text = b"".join(self.token_bytes(index) for index in ids).decode("utf-8", "replace")
        return text if continued else text.removeprefix(self.blank)

    @cached_property
    def blank(self) -> str:
        """The blank that the tokenizer puts before a text; empty for most."""
        return " " if b"".join(self.token_bytes(index) for index in self.encode("a")).startswith(b" ") else ""

    def token_bytes(self, index: int) -> bytes:
        """What one token stands for; a special token for its name. Ids without an entry are empty."""
        if index not in self._bytes:
            name = self._json.id_to_token(index)
            if name is None:
                self._bytes[index] = b""
            else:
                self._bytes[index] = name.encode() if name in self._added else bytes_of(name, self._spelling)
        return self._bytes[index]


class TextStream:
    """Token after token to the text that is complete so far and was not given yet; all pieces together are `decode`'s."""

    def __init__(self, tokenizer: Tokenizer, continued: bool = False) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._blank = "" if continued else tokenizer.blank

    def push(self, token: int) -> str:
        """What is certain now."""
        return self._cut(self._decoder.decode(self._tokenizer.token_bytes(token)))

    def end(self) -> str:
        """The rest: bytes of a character that never came to its end."""
        return self._cut(self._decoder.decode(b"", final=True))

    def _cut(self, text: str) -> str:
        if text:
            text, self._blank = text.removeprefix(self._blank), ""
        return text


def train_tokenizer(texts: Iterable[str], vocab_size: int, digits: Digits) -> Tokenizer:
    """Learn merges from `texts`; `vocab_size` counts bytes, merges and special tokens.

    The vocabulary is smaller where the text has too few different pairs.
    """
    import rustbpe

    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(iter(texts), vocab_size - len(SPECIAL), pattern=single_pattern(digits))
    ranks = {bytes(token): rank for token, rank in learner.get_mergeable_ranks()}
    return Tokenizer(json_document(ranks, digits))


def json_document(ranks: dict[bytes, int], digits: Digits) -> dict[str, Any]:
    """The tokenizer.json of byte sequences ranked by when they were learned (0-255 the bytes)."""
    vocabulary = {name: index for index, name in enumerate(SPECIAL)}
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        vocabulary[_characters(token)] = rank + len(SPECIAL)
        if len(token) > 1:
            merges.append([_characters(part) for part in _split_of(token, ranks)])
    added = [
        {
            "id": index, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for index, name in enumerate(SPECIAL)
    ]  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": json_pre_tokenizer(digits),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": BOS, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {BOS: {"id": BOS, "ids": [0], "tokens": [BOS]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocabulary, "merges": merges,
        },
    }  # fmt: skip


def _split_of(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts whose merge made a token: what BPE leaves of it when it may use earlier merges only."""
    parts = [bytes([value]) for value in token]
    limit = ranks[token]
    while len(parts) > 2:
        pairs = [ranks.get(parts[i] + parts[i + 1], limit) for i in range(len(parts) - 1)]
        at = min(range(len(pairs)), key=pairs.__getitem__)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _characters(token: bytes) -> str:
    return "".join(CHARACTER_OF[value] for value in token)


def _is_special(entry: dict[str, Any]) -> bool:
    return bool(entry.get("special")) or entry["content"] in SPECIAL


def _text_only(document: dict[str, Any]) -> JsonTokenizer:
    """The tokenizer of a document that takes every text as text: whole, unpadded, its special tokens spelled out."""
    entries = [entry | {"special": _is_special(entry)} for entry in document.get("added_tokens", [])]
    made = JsonTokenizer.from_str(json.dumps(document | {"added_tokens": entries}, ensure_ascii=False))
    made.no_truncation()
    made.no_padding()
    made.encode_special_tokens = True
    return made


def _literal(pre_tokenizer: Any) -> Any:
    """A pre-tokenizer with line ends in its patterns written as they are: the release has them so, ours as escapes."""
    if isinstance(pre_tokenizer, dict):
        return {key: _literal(value) for key, value in pre_tokenizer.items()}
    if isinstance(pre_tokenizer, list):
        return [_literal(value) for value in pre_tokenizer]
    return pre_tokenizer.replace(r"\r", "\r").replace(r"\n", "\n") if isinstance(pre_tokenizer, str) else pre_tokenizer


def _tiktoken_of(document: dict[str, Any]) -> tiktoken.Encoding | None:
    """The fast encoder of a byte-level BPE by V3's rules, ours or another; None where it might give other ids.

    tiktoken merges the pair whose union has the lowest id, `tokenizers` the pair that stands first in the list of merges:
    the same where the tokens of the vocabulary were learned in the order of their ids, each by the merge that is left of
    it when only earlier ones are used.
    """
    model = document.get("model", {})
    options = (
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "ignore_merges",
        "byte_fallback",
    )
    normalizer = document.get("normalizer") or {}
    rules = [_literal(json_pre_tokenizer(digits)) for digits in DIGITS]
    cut = _literal(document.get("pre_tokenizer"))
    entries = document.get("added_tokens", [])
    if (
        model.get("type") != "BPE"
        or any(model.get(name) for name in options)
        or normalizer.get("normalizers", normalizer) not in ([], {})
        or cut not in rules
        or any(entry.get(flag) for entry in entries for flag in ("single_word", "lstrip", "rstrip"))
    ):
        return None
    added = {entry["content"]: entry["id"] for entry in entries}
    learned = sorted((index, name) for name, index in model["vocab"].items() if name not in added)
    if not all(character in BYTE_OF for _, name in learned for character in name):
        return None
    ranks = {bytes(BYTE_OF[character] for character in name): index for index, name in learned}
    longer = [token for token in ranks if len(token) > 1]
    merges = [merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"]]
    if len(ranks) - len(longer) != BYTES or len(merges) != len(longer):
        return None
    for token, parts in zip(longer, merges, strict=True):
        if [_characters(part) for part in _split_of(token, ranks)] != parts:
            return None
    pattern = single_pattern(DIGITS[rules.index(cut)])
    return tiktoken.Encoding("sapience", pat_str=pattern, mergeable_ranks=ranks, special_tokens=added)


def _roles(file: Path) -> dict[str, str]:
    """Which tokens begin, end and pad a text, by the tokenizer_config.json that lies beside a tokenizer.json."""
    if not file.is_file():
        return {}
    config = json.loads(file.read_text(encoding="utf-8"))
    found = {role: config.get(role) for role in ("bos_token", "eos_token", "pad_token")}
    names = {role: value.get("content") if isinstance(value, dict) else value for role, value in found.items()}
    return {role: name for role, name in names.items() if isinstance(name, str)}


def _special(added: dict[str, int], name: str, meaning: str, role: str) -> int:
    if name in added:
        return added[name]
    raise UserError(
        f"the tokenizer has no special token {name} for the {meaning}: name one as {role} in a {CONFIG} beside {FILE}"
    )

"""Text to token ids and back, by the `tokenizers` library; how the ids of a conversation come to be is in `chat`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from thack.data import parting
from thack.data.chat_options import ChatOptions
from thack.data.eos import Ends
from thack.data.template import ChatTemplate
from thack.data.tokenizer_files import TokenizerFacts, read_backend, read_facts
from thack.data.turn_end import turn_end
from thack.errors import DataError, ModelError, UsageError
from thack.reading import parse_json

PAD, EOS = "<pad>", "</s>"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as ids, with the place of each in the text."""

    ids: np.ndarray  # int32 [T]
    spans: tuple[tuple[int, int], ...]  # characters [start, end) of each id


class Tokenizer:
    """A tokenizer directory. Padding is never recognised by its id: lengths say where a sequence ends.

    So `pad_id == eos_id`, which many checkpoints have, cannot hide an EOS from the loss.

    Args:
        backend: splits text into ids.
        facts: what the files beside tokenizer.json say.
        options: how conversations are rendered, and which end is meant.
    """

    def __init__(self, backend: Backend, facts: TokenizerFacts, options: ChatOptions | None = None) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._fingerprint: str | None = None
        self.facts = facts
        self.options = options or ChatOptions()
        # Ids that the model reads. The highest one counts, not the number of tokens: vocabularies have holes.
        self.size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if facts.rows is not None:
            self.size = min(self.size, facts.rows)

    @classmethod
    def train(cls, texts: Iterable[str], size: int, pattern: str = "") -> Tokenizer:
        """A byte-level BPE of `size` ids where the texts are rich enough; the same for the same texts.

        Args:
            texts: to train on.
            size: ids, with padding and EOS.
            pattern: a regular expression whose matches are merged apart; empty: GPT-2's.
        """
        if size < 258:
            raise DataError(
                f"a byte-level tokenizer needs at least 258 ids, not {size}",
                hint="256 bytes, padding and EOS: set tokenizer_size to 258 or more",
            )
        backend = Backend(models.BPE())
        # transformers and tokenizers name these attributes only at run time.
        backend.pre_tokenizer = _split(pattern) if pattern else pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[AddedToken(PAD, special=True), AddedToken(EOS, special=True)],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": EOS,
            "pad_token": PAD,
            "clean_up_tokenization_spaces": False,
        }
        facts = TokenizerFacts(
            ends=Ends(eos=_known(backend, EOS)),
            pad_id=_known(backend, PAD),
            tokens={"eos_token": EOS, "pad_token": PAD},
            templates={},
            side_files={"tokenizer_config.json": (json.dumps(config, indent=2) + "\n").encode()},
        )
        return cls(backend, facts)

    @classmethod
    def load(cls, directory: Path | str) -> Tokenizer:
        """Read a directory that has tokenizer.json; the special tokens come from the files beside it.

        Raises:
            ModelError: a file is missing or damaged, or no end-of-sequence token is defined.
        """
        backend = read_backend(Path(directory))
        return cls(backend, read_facts(Path(directory), backend))

    def save(self, directory: Path) -> None:
        """Write tokenizer.json and the files that came with it."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_text(self._backend.to_str(pretty=True), encoding="utf-8")
        for name, content in self.facts.side_files.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes(content)

    def with_options(self, options: ChatOptions) -> Tokenizer:
        """The same tokenizer with other options.

        Raises:
            UsageError: `options.end` is not one token of this tokenizer.
        """
        if options == self.options:
            return self
        found = copy(self)
        found.options = options
        for name in ("ends", "_text_backend"):
            found.__dict__.pop(name, None)
        if options.end:
            found._named_end(options.end)  # refuses now what it would refuse later
        return found

    def with_template(self, source: str) -> Tokenizer:
        """The same tokenizer with this chat template alone."""
        return Tokenizer(self._backend, replace(self.facts, templates={"default": source}), self.options)

    def for_architecture(self, *, encoder_decoder: bool) -> Tokenizer:
        """The same tokenizer for a model with or without an encoder of its own for prompts."""
        if encoder_decoder == self.facts.encoder_decoder:
            return self
        return Tokenizer(self._backend, replace(self.facts, encoder_decoder=encoder_decoder), self.options)

    def for_rows(self, rows: int) -> Tokenizer:
        """The same tokenizer for a model of `rows` embeddings; a text with an added token that has none is refused.

        Raises:
            ModelError: a token of the text's own vocabulary has none, or EOS.
        """
        if rows >= self.size:
            return self
        ends = self.facts.ends
        if ends.eos >= rows or not {*map(self.token, range(rows, self.size))} <= {"", *self.added_tokens}:
            raise ModelError(
                f"the model has {rows:,} embeddings, its tokenizer {self.size:,} tokens",
                hint="use the tokenizer it was trained with",
            )
        ends = replace(ends, others=frozenset(i for i in ends.others if i < rows))
        pad_id = self.pad_id if self.pad_id < rows else ends.eos
        return Tokenizer(self._backend, replace(self.facts, ends=ends, pad_id=pad_id, rows=rows), self.options)

    def unread(self, ids: np.ndarray) -> str:
        """The first of the ids' tokens for which the model has no embedding; empty: there is none."""
        if self.facts.rows is None:
            return ""
        return next((self.token(int(i)) for i in ids if i >= self.facts.rows), "")

    @property
    def eos_id(self) -> int:
        """The tokenizer's own end of sequence."""
        return self.facts.ends.eos

    @property
    def pad_id(self) -> int:
        """Fills rectangles."""
        return self.facts.pad_id

    @property
    def bos_id(self) -> int | None:
        """Begins a text, or None."""
        return self.facts.bos_id

    @cached_property
    def ends(self) -> Ends:
        """Which ids end a response: see `thack.data.eos`."""
        ends, template = self.facts.ends, self.template()
        if template is not None:
            found = turn_end(template, self.added_tokens, ends.ids)
            behind = tuple(self.encode(found.behind).tolist()) if found.behind else ()
            ends = replace(ends, turn=found.end, behind_turn=behind)
        return ends.named(self._named_end(self.options.end)) if self.options.end else ends

    def without_end(self, text: str) -> str:
        """The text without an end that is written out at its end."""
        ends = tuple(self.token(i) for i in sorted(self.ends.ids))
        while (kept := text.rstrip()).endswith(ends):
            text = kept.removesuffix(next(end for end in ends if kept.endswith(end)))
        return text

    def _named_end(self, end: str) -> int:
        found: int | None = self._backend.token_to_id(end)
        if found is None:
            raise UsageError(
                f"end = {end!r} is not one token of the tokenizer",
                hint="give the token as the tokenizer writes it, such as <|im_end|>",
            )
        return found

    @cached_property
    def added_tokens(self) -> dict[str, int]:
        """Tokens that stand outside the text's own vocabulary, control tokens among them."""
        return {token.content: i for i, token in sorted(self._backend.get_added_tokens_decoder().items())}

    @cached_property
    def special_tokens(self) -> frozenset[str]:
        """Those of the added tokens that are control tokens by themselves."""
        return frozenset(t.content for t in self._backend.get_added_tokens_decoder().values() if t.special)

    def template(self, *, with_tools: bool = False) -> ChatTemplate | None:
        """The chat template that the options choose; None: there is none."""
        source = self.options.choose(self.facts.templates, with_tools=with_tools)
        if source is None:
            return None
        return ChatTemplate(
            source=source, tokens=self.facts.tokens, variables=self.options.variables, now=self.options.now
        )

    def encode(self, text: str) -> np.ndarray:
        """int32 ids of a text, without what the tokenizer puts around one."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str], *, as_text: bool = False) -> list[np.ndarray]:
        """`encode` of many texts, in parallel; with `as_text` control tokens in them are ordinary text.

        Raises:
            LongText: a text is too long for this tokenizer.
        """
        may_part = max(map(len, texts), default=0) > parting.SHORT and self.can_part
        return parting.encode(self._text_backend if as_text else self._backend, texts, may_part=may_part)

    def encode_with_spans(self, text: str, *, as_text: bool = False) -> Encoded:
        """One text as ids, each with its characters.

        Raises:
            LongText: it is too long.
        """
        parting.refuse_long(text)
        found = (self._text_backend if as_text else self._backend).encode(text, add_special_tokens=False)
        return Encoded(_int32(found.ids), tuple(found.offsets))

    def encode_inside(self, text: str, *, as_text: bool = False) -> np.ndarray:
        """int32 ids of a text from within another one: without the space that some tokenizers put before a text."""
        alone, whole = self.encode_batch([text, "\n" + text], as_text=as_text)
        return whole[len(self._line_break) :] if self._puts_space and _begins(whole, self._line_break) else alone

    @cached_property
    def can_part(self) -> bool:
        """Whether a long text has the ids of its parts: see `thack.data.parting`."""
        return parting.can_part(self._backend)

    @cached_property
    def _line_break(self) -> np.ndarray:
        return self.encode("\n")

    @cached_property
    def _puts_space(self) -> bool:
        """Whether a text gets a space before it (SentencePiece's dummy prefix)."""
        alone, whole = self.encode_batch(["a", "\na"])
        return _begins(whole, self._line_break) and not np.array_equal(whole[len(self._line_break) :], alone)

    def behind_bos(self, ids: np.ndarray) -> np.ndarray:
        """The ids of a text behind the BOS that the tokenizer puts before every text, unless it is written out there.

        So begins the response of an encoder-decoder, which is a text of its own; T5's tokenizer has no BOS.
        """
        before = self._around[0]
        return ids if _begins(ids, before) or not len(before) else np.concatenate([before, ids])

    def as_prompt(self, ids: np.ndarray) -> np.ndarray:
        """The ids of a text as a prompt: `behind_bos`, and for an encoder-decoder with what is put behind a text.

        That is an EOS, which a decoder's prompt does not get: the response continues it. A text that ends with the EOS
        written out gets no second one.
        """
        found, behind = self.behind_bos(ids), self._around[1]
        if self.facts.encoder_decoder and not _begins(ids[::-1], behind[::-1]):
            return np.concatenate([found, behind])
        return found

    @cached_property
    def _text_backend(self) -> Backend:
        backend = Backend.from_str(self._backend.to_str())
        backend.encode_special_tokens = True
        return backend

    @cached_property
    def _around(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids that the tokenizer's own post-processor puts before and behind every text."""
        alone = self._backend.encode("a", add_special_tokens=False).ids
        whole = self._backend.encode("a", add_special_tokens=True).ids
        size = len(alone)
        start = next((i for i in range(len(whole) - size + 1) if whole[i : i + size] == alone), 0)
        return _int32(whole[:start]), _int32(whole[start + size :])

    @property
    def bos_contradiction(self) -> str:
        """What tokenizer_config.json says of a BOS, where tokenizer.json does another thing; else empty."""
        puts_bos = self.bos_id is not None and self.bos_id in self._around[0]
        if self.facts.adds_bos is None or self.bos_id is None or self.facts.adds_bos == puts_bos:
            return ""
        return (
            f"tokenizer_config.json says add_bos_token = {str(self.facts.adds_bos).lower()}, but tokenizer.json "
            f"{'puts a BOS' if puts_bos else 'puts no BOS'} before a text: tokenizer.json counts, as in transformers 5"
        )

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of the ids without special tokens. Ids beyond the tokenizer (padded heads) are dropped."""
        return self._backend.decode([int(i) for i in ids if 0 <= i < self.size], skip_special_tokens=True)

    def text(self, ids: Sequence[int]) -> str:
        """Text of the ids, control tokens written out."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def token(self, token_id: int) -> str:
        """The token of an id as the tokenizer writes it; empty beyond the tokenizer."""
        return self._backend.id_to_token(token_id) or ""

    def fingerprint(self) -> str:
        """sha256 of what the ids mean: vocabulary, merges, text splitting, added tokens.

        Not of the file: pretty-printing, truncation settings or a chat template change no id's meaning. Nor does the
        token that ends a response: see `ends`.
        """
        if self._fingerprint is None:
            data = json.dumps(self.meaning(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
            self._fingerprint = "sha256:" + hashlib.sha256(data.encode()).hexdigest()
        return self._fingerprint

    def meaning(self) -> dict[str, object]:
        """All that decides which ids a text has, as plain values."""
        content = parse_json(self._backend.to_str(), strict=False)
        found = {key: content.get(key) for key in ("model", "normalizer", "pre_tokenizer")}
        return found | {"added": sorted((t["id"], t["content"]) for t in content.get("added_tokens") or [])}


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    pieces = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _int32(ids: Sequence[int]) -> np.ndarray:
    return np.asarray(ids, dtype=np.int32)


def _begins(ids: np.ndarray, start: np.ndarray) -> bool:
    return len(start) > 0 and np.array_equal(ids[: len(start)], start)


def _known(backend: Backend, token: str) -> int:
    token_id = backend.token_to_id(token)
    assert token_id is not None, token
    return token_id

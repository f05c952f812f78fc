"""Records as token ids: a prompt, or a prompt with what is trained behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from thack.data.chat import ChatEncoder, Pair, RenderedTurn, TrainOn, trained_turns
from thack.data.control_tokens import encode_inside, encode_text
from thack.data.eos import cut
from thack.data.heads import UNBOUNDED, Bounds, Heads
from thack.data.parting import LongText
from thack.data.raw_text import pieces
from thack.data.records import Conversation, Record, RecordRefusal
from thack.data.teacher_prompt import for_teacher, with_teacher_side
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError

Found = TypeVar("Found")
_TURNS = 1 << 22  # trained ones times all of one conversation
_NO_TOKEN = (
    "empty prompt, before which this tokenizer puts no BOS: a response needs a token to begin from. A text that is "
    "trained as a whole is given as `text` alone"
)


class RecordEncoder:
    """Encodes the records of one data set.

    Args:
        tokenizer: with the options of the data set.
        train_on: which turns of a conversation are trained.
        text_tokens: longest piece of a raw text, in tokens.
        bounds: what is kept of texts; of far longer ones only the beginning is encoded.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        train_on: TrainOn = "last",
        text_tokens: int = 1024,
        bounds: Bounds = UNBOUNDED,
    ) -> None:
        self._tokenizer = tokenizer
        self._chat = ChatEncoder(tokenizer, bounds)
        self._heads, self._bounds = Heads(tokenizer), bounds
        self._train_on = train_on
        self._text_tokens = text_tokens

    def prompts(self, records: Sequence[Record]) -> list[np.ndarray | RecordRefusal]:
        """int32 ids of every prompt, as a model reads it; a refusal where there is none, or no template accepts it."""
        return _refusing(self._prompts, records)

    def _prompts(self, records: Sequence[Record]) -> list[np.ndarray | RecordRefusal]:
        for record in records:
            if record.is_text:
                raise DataError(f"{record.name}: a raw `text` has no prompt", hint="give `prompt` or `messages`")
        texts = [self._prompt_of(record) for record in records if record.conversation is None]
        ids = iter(self._text_prompts(texts))
        rendered = [self._rendered_prompt(r.conversation) for r in records if r.conversation is not None]
        chats = iter(_fill(rendered, self._chat.encode_prompts))
        found = [next(ids if record.conversation is None else chats) for record in records]
        return [each if isinstance(each, RecordRefusal) else self._unread(each) or each for each in found]

    def teacher_prompts(self, records: Sequence[Record]) -> list[np.ndarray | RecordRefusal | None]:
        """int32 ids of what the teacher reads in place of each prompt; None where it reads the prompt."""
        asked = self._for_teacher(records)
        found = iter(self.prompts([record for record in asked if isinstance(record, Record)]))
        return [next(found) if isinstance(record, Record) else record for record in asked]

    def _for_teacher(self, records: Sequence[Record]) -> list[Record | RecordRefusal | None]:
        found: list[Record | RecordRefusal | None] = []
        for record in records:
            try:
                found.append(for_teacher(record, self._tokenizer.options))
            except RecordRefusal as refusal:
                found.append(refusal)
        return found

    def pairs(self, records: Sequence[Record]) -> list[list[Pair] | RecordRefusal]:
        """What is trained of every record: none where it has no response, several of several turns or pieces.

        Where the teacher reads another prompt, each pair holds that too.

        Raises:
            DataError: response ids beyond the vocabulary.
        """
        asked = self._for_teacher(records)
        theirs = iter(_refusing(self._pairs, [record for record in asked if isinstance(record, Record)]))
        found: list[list[Pair] | RecordRefusal] = []
        for own, record in zip(_refusing(self._pairs, records), asked, strict=True):
            if record is None:
                found.append(own)
            else:
                teacher = next(theirs) if isinstance(record, Record) else record
                found.append(with_teacher_side(own, teacher, self._tokenizer))
        return found

    def _pairs(self, records: Sequence[Record]) -> list[list[Pair] | RecordRefusal]:
        """As one of the two models reads them.

        Raises:
            DataError: response ids beyond the vocabulary.
        """
        found: dict[int, list[Pair] | RecordRefusal] = {}
        given = [i for i, record in enumerate(records) if record.response_ids is not None]
        for i, prompt in zip(given, self.prompts([records[i] for i in given]), strict=True):
            found[i] = prompt if isinstance(prompt, RecordRefusal) else self._given(prompt, records[i])
        rest = [i for i in range(len(records)) if i not in found]
        chats = [i for i in rest if records[i].conversation is not None]
        found |= zip(chats, self._turns([records[i] for i in chats]), strict=True)
        texts = [i for i in rest if records[i].is_text]
        found |= zip(texts, (self._raw(records[i]) for i in texts), strict=True)
        plain = [i for i in rest if records[i].conversation is None and not records[i].is_text]
        found |= zip(plain, self._plain([records[i] for i in plain]), strict=True)
        return [self._read(found[i]) for i in range(len(records))]

    def _read(self, found: list[Pair] | RecordRefusal) -> list[Pair] | RecordRefusal:
        if isinstance(found, RecordRefusal):
            return found
        refusals = (self._unread(ids) for pair in found for ids in (pair.prompt_ids, pair.response_ids))
        return next(filter(None, refusals), found)

    def _unread(self, ids: np.ndarray) -> RecordRefusal | None:
        token = self._tokenizer.unread(ids)
        return RecordRefusal(f"the model has no embedding for {token!r}: take it out of the text") if token else None

    def _prompt_of(self, record: Record) -> str:
        return self._heads.of_prompt(record.prompt, self._bounds)

    def _rendered_prompt(self, conversation: Conversation) -> str | RecordRefusal:
        try:
            return self._chat.render_prompt(conversation.until(conversation.num_prompt_turns))
        except RecordRefusal as refusal:
            return refusal

    def _text_prompts(self, texts: Sequence[str]) -> list[np.ndarray | RecordRefusal]:
        return [self._begun(ids) for ids in encode_text(self._tokenizer, texts)]

    def _begun(self, ids: np.ndarray) -> np.ndarray | RecordRefusal:
        """A text as a prompt, which may be empty where the tokenizer puts a BOS before it."""
        prompt = self._tokenizer.as_prompt(ids)
        return prompt if len(prompt) else RecordRefusal(_NO_TOKEN)

    def _plain(self, records: Sequence[Record]) -> list[list[Pair] | RecordRefusal]:
        """Pairs of texts, each response encoded behind its prompt and closed by an end."""
        ends = self._tokenizer.ends
        prompts = encode_text(self._tokenizer, [self._prompt_of(record) for record in records])
        responses = self._behind(records, prompts)
        found: list[list[Pair] | RecordRefusal] = []
        for record, ids, response in zip(records, prompts, responses, strict=True):
            prompt = self._begun(ids)
            if isinstance(prompt, RecordRefusal):
                found.append(prompt)
            else:
                found.append([Pair(prompt, ends.close(response))] if record.response else [])
        return found

    def _behind(self, records: Sequence[Record], prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Ids of the responses, as they stand behind their prompts. An encoder-decoder's begin a text of their own."""
        tokenizer = self._tokenizer
        texts = [self._heads.of(record.response or "", self._bounds.response) for record in records]
        if tokenizer.facts.encoder_decoder:
            return [tokenizer.behind_bos(ids) for ids in encode_text(tokenizer, texts)]
        wholes = encode_text(tokenizer, [self._prompt_of(r) + text for r, text in zip(records, texts, strict=True)])
        return [
            whole[len(prompt) :] if np.array_equal(whole[: len(prompt)], prompt) else encode_inside(tokenizer, text)
            for whole, prompt, text in zip(wholes, prompts, texts, strict=True)
        ]

    def _raw(self, record: Record) -> list[Pair]:
        return pieces(record.response or "", self._tokenizer, self._text_tokens)

    def _turns(self, records: Sequence[Record]) -> list[list[Pair] | RecordRefusal]:
        rendered = [self._rendered_turns(record) for record in records]
        flat = [turn for turns in rendered if not isinstance(turns, RecordRefusal) for turn in turns]
        encoded = iter(self._chat.encode_turns(flat))
        found: list[list[Pair] | RecordRefusal] = []
        for turns in rendered:
            if isinstance(turns, RecordRefusal):
                found.append(turns)
            else:
                pairs = [next(encoded) for _ in turns]
                found.append([pair for pair in pairs if len(pair.response_ids)])
        return found

    def _rendered_turns(self, record: Record) -> list[RenderedTurn] | RecordRefusal:
        conversation = record.conversation
        assert conversation is not None
        try:
            chosen = trained_turns(conversation, self._train_on)
            if self._train_on == "last" and not record.response:
                chosen = []  # the assistant says nothing
            _refuse_squares(len(chosen), len(conversation.messages))
            return [self._chat.render_turn(conversation.until(turn + 1)) for turn in chosen]
        except RecordRefusal as refusal:
            return refusal

    def _given(self, prompt: np.ndarray, record: Record) -> list[Pair]:
        """Ids that a model wrote are kept as they are: decoding and encoding again would change them.

        A server may drop the end at which it stopped: that end is put back.
        """
        ids = np.asarray(record.response_ids, dtype=np.int32)
        if len(ids) and int(ids.max()) >= self._tokenizer.size:
            raise DataError(
                f"prompt {record.prompt_id}: response id {int(ids.max())} is beyond the vocabulary",
                details=[f"the tokenizer has {self._tokenizer.size:,} ids"],
                hint="were these ids written with another tokenizer? give `response` as text instead",
            )
        if record.stopped:
            ends = self._tokenizer.ends
            ids = ends.close(ids, by=None if record.conversation is None else ends.turn)
        return [Pair(prompt, ids)] if len(ids) else []


def _refuse_squares(trained: int, turns: int) -> None:
    """Every trained turn is rendered with all turns before it."""
    if trained * turns > _TURNS:
        raise RecordRefusal(
            f"{trained:,} trained turns in a conversation of {turns:,}: cut it into several, or train the last turn "
            "alone (`data.train_on = last`)"
        )


def _refusing(
    encode: Callable[[Sequence[Record]], list[Found | RecordRefusal]], records: Sequence[Record]
) -> list[Found | RecordRefusal]:
    """What `encode` makes of the records; of those with a text that is too long, a refusal."""
    try:
        return encode(records)
    except LongText as error:
        if len(records) == 1:
            return [RecordRefusal(f"{error.message}: {error.hint}")]
        return [found for record in records for found in _refusing(encode, [record])]


def _fill(
    texts: Sequence[str | RecordRefusal], encode: Callable[[Sequence[str]], list[np.ndarray]]
) -> list[np.ndarray | RecordRefusal]:
    """Ids of the texts in one call; refusals stay where they are."""
    ids = iter(encode([text for text in texts if isinstance(text, str)]))
    return [next(ids) if isinstance(text, str) else text for text in texts]


def bounds_of(records: Sequence[Record], tokenizer: Tokenizer, bounds: Bounds) -> Bounds:
    """`bounds`; none where texts as the teacher reads them are compared with those as the student does."""
    options = tokenizer.options
    are_compared = options.teacher_system or options.teacher_template
    return UNBOUNDED if are_compared or any(r.teacher_prompt is not None for r in records) else bounds


def encode_prompts(records: Sequence[Record], tokenizer: Tokenizer, bounds: Bounds = UNBOUNDED) -> list[np.ndarray]:
    """int32 ids of every prompt: of a text with the tokenizer's BOS, of a conversation with its template's tokens.

    Raises:
        DataError: the template does not accept a conversation.
    """
    found = RecordEncoder(tokenizer, bounds=bounds).prompts(records)
    return [_accepted(*each) for each in zip(records, found, strict=True)]


def encode_teacher_prompts(
    records: Sequence[Record], tokenizer: Tokenizer, bounds: Bounds = UNBOUNDED
) -> list[np.ndarray | None]:
    """int32 ids of what the teacher reads in place of each prompt; None where it reads the prompt.

    Raises:
        DataError: a prompt of the teacher's own is of another form, or its template does not accept it.
    """
    found = RecordEncoder(tokenizer, bounds=bounds).teacher_prompts(records)
    return [_accepted(*each) for each in zip(records, found, strict=True)]


def encode_references(
    records: Sequence[Record], tokenizer: Tokenizer, maximum: int, max_prompt_tokens: int = 0
) -> list[np.ndarray | None]:
    """int32 ids of the response of every record, at most `maximum`; None where there is none.

    Args:
        records: with prompts and responses.
        tokenizer: of the ids.
        maximum: ids of a response.
        max_prompt_tokens: of a longer prompt the beginning is read alone, since the record is left out; 0: all of it.

    Raises:
        DataError: the template does not accept a conversation.
    """
    bounds = bounds_of(records, tokenizer, Bounds(prompt=max_prompt_tokens, response=maximum))
    encoder = RecordEncoder(tokenizer, bounds=bounds)
    found = [_accepted(*each) for each in zip(records, encoder.pairs(records), strict=True)]
    return [cut(pairs[0].response_ids, maximum) if pairs else None for pairs in found]


def refusal(record: Record, tokenizer: Tokenizer, maximum: int) -> str:
    """Why a prompt cannot be read, with the place of its record; empty: it can, or has more than `maximum` tokens."""
    (found,) = RecordEncoder(tokenizer, bounds=Bounds(prompt=maximum)).prompts([record])
    return f"{record.name}: {found}" if isinstance(found, RecordRefusal) else ""


def _accepted(record: Record, found: Found | RecordRefusal) -> Found:
    if isinstance(found, RecordRefusal):
        raise DataError(f"{record.name}: {found}", hint="take it out of the data")
    return found

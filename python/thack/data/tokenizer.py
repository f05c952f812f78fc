"""Text to token ids and back: the `tokenizers` library and the few facts that its file leaves out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from thack.errors import DataError, ModelError

PAD, EOS = "<pad>", "</s>"
# Carried along unchanged by `save`: what transformers and vLLM read beside tokenizer.json.
_SIDE_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
)


class Tokenizer:
    """A tokenizer directory. Padding is never recognised by its id: lengths say where a sequence ends.

    So `pad_id == eos_id`, which many checkpoints have, cannot hide an EOS from the loss.

    `stop_ids`: any of them ends a response. EOS is one; a chat model's end of turn may be another.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        eos_id: int,
        pad_id: int,
        bos_id: int | None = None,
        stop_ids: Iterable[int] = (),
        chat_template: str | None = None,
        side_files: Mapping[str, bytes] | None = None,
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._side_files = dict(side_files or {})
        self._fingerprint: str | None = None
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.bos_id = bos_id
        self.stop_ids = frozenset({eos_id, *stop_ids})
        self.chat_template = chat_template
        # The highest id, not the number of tokens: vocabularies have holes.
        self.size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> Tokenizer:
        """A byte-level BPE of `size` ids where the texts are rich enough; the same for the same texts."""
        if size < 258:
            raise DataError(
                f"a byte-level tokenizer needs at least 258 ids, not {size}",
                hint="256 bytes, padding and EOS: set tokenizer_size to 258 or more",
            )
        backend = Backend(models.BPE())
        # transformers and tokenizers name these attributes only at run time.
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
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
        side_files = {"tokenizer_config.json": (json.dumps(config, indent=2) + "\n").encode()}
        return cls(
            backend,
            eos_id=_known(backend, EOS),
            pad_id=_known(backend, PAD),
            side_files=side_files,
        )

    @classmethod
    def load(cls, directory: Path | str) -> Tokenizer:
        """Read a directory that has tokenizer.json; the special tokens come from the files beside it."""
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"no tokenizer.json in {directory}",
                hint="save the tokenizer in the fast format, for example "
                "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
            )
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path}: not a tokenizer ({error})") from error
        side_files = {name: (directory / name).read_bytes() for name in _SIDE_FILES if (directory / name).is_file()}
        config = _json_object(directory / "tokenizer_config.json")
        special = {**_json_object(directory / "special_tokens_map.json"), **config}
        model_config = {
            **_json_object(directory / "config.json"),
            **_json_object(directory / "generation_config.json"),
        }
        ids = {
            name: _special_id(backend, special.get(f"{name}_token"), model_config.get(f"{name}_token_id"))
            for name in ("eos", "pad", "bos")
        }
        if ids["eos"] is None:
            raise ModelError(
                f"{directory}: no end-of-sequence token is defined",
                hint="name one as eos_token in tokenizer_config.json",
            )
        template = config.get("chat_template")
        if "chat_template.jinja" in side_files:
            template = side_files["chat_template.jinja"].decode()
        return cls(
            backend,
            eos_id=ids["eos"],
            pad_id=ids["eos"] if ids["pad"] is None else ids["pad"],
            bos_id=ids["bos"],
            stop_ids=_stops(backend, model_config.get("eos_token_id")),
            chat_template=template if isinstance(template, str) else None,
            side_files=side_files,
        )

    def save(self, directory: Path) -> None:
        """Write tokenizer.json and the files that came with it."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_text(self._backend.to_str(pretty=True), encoding="utf-8")
        for name, content in self._side_files.items():
            (directory / name).write_bytes(content)

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        """int32 ids; with `special`, plus what the tokenizer's own template adds (a BOS, T5's `</s>`)."""
        return np.asarray(self._backend.encode(text, add_special_tokens=special).ids, dtype=np.int32)

    def encode_pair(self, prompt: str, response: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Ids of the prompt with its special tokens, and of the response with EOS at its end."""
        prompt_ids = self.encode(prompt, special=True)
        return prompt_ids, None if response is None else self.encode_response(response)

    def encode_response(self, response: str) -> np.ndarray:
        """int32 ids of a response that ends by itself."""
        return np.append(self.encode(response), np.int32(self.eos_id))

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[np.ndarray]:
        """`encode` of many texts, in parallel."""
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=special)
        return [np.asarray(item.ids, dtype=np.int32) for item in encoded]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of the ids without special tokens. Ids beyond the tokenizer (padded heads) are dropped."""
        return self._backend.decode([int(i) for i in ids if 0 <= i < self.size], skip_special_tokens=True)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """A conversation as prompt text, by the chat template that came with the tokenizer."""
        if self.chat_template is None:
            raise DataError(
                "these prompts are conversations, but the tokenizer has no chat template",
                hint="give the text itself as `prompt`, or add chat_template.jinja to the model's directory",
            )
        from jinja2 import TemplateError

        try:
            text: str = _compiled(self.chat_template).render(
                messages=list(messages),
                add_generation_prompt=True,
                bos_token=self._token(self.bos_id),
                eos_token=self._token(self.eos_id),
                pad_token=self._token(self.pad_id),
            )
        except TemplateError as error:
            raise DataError(f"the chat template refuses a conversation: {error}") from error
        return text

    def encode_conversations(self, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[np.ndarray]:
        """int32 ids of every conversation, as the template renders it: it writes its special tokens, a BOS too,
        itself, and the tokenizer's own would be there twice."""
        return self.encode_batch([self.render(messages) for messages in conversations])

    def _token(self, token_id: int | None) -> str:
        return "" if token_id is None else (self._backend.id_to_token(token_id) or "")

    def fingerprint(self) -> str:
        """sha256 of what the ids mean: vocabulary, merges, text splitting, added tokens, EOS.

        Not of the file: pretty-printing, truncation settings or a chat template change no id's meaning.
        """
        if self._fingerprint is None:
            content = json.loads(self._backend.to_str())
            meaning = {key: content.get(key) for key in ("model", "normalizer", "pre_tokenizer")}
            meaning["added"] = sorted((t["id"], t["content"]) for t in content.get("added_tokens") or [])
            meaning["eos"] = self.eos_id
            data = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
            self._fingerprint = "sha256:" + hashlib.sha256(data.encode()).hexdigest()
        return self._fingerprint


@cache
def _compiled(template: str) -> Any:
    """A chat template with what transformers lets them use."""
    from jinja2 import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what an assistant says, which changes no text."""

        tags = {"generation"}  # noqa: RUF012 - as jinja declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)  # jinja's own escapes <, > and &
    return environment.from_string(template)


def _json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds {type(content).__name__}, expected an object")
    return content


def _special_id(backend: Backend, token: object, configured: object) -> int | None:
    """The id of a special token: by name from the tokenizer's files, else by id from the model's."""
    if isinstance(token, dict):
        token = token.get("content")
    if isinstance(token, str):
        found: int | None = backend.token_to_id(token)
        if found is not None:
            return found
    if isinstance(configured, list) and configured:
        configured = configured[0]
    return configured if isinstance(configured, int) and not isinstance(configured, bool) else None


def _stops(backend: Backend, configured: object) -> Iterator[int]:
    """Those that a model's files name as ends of a text. Special tokens only: a configuration that was never set
    names the default of its class, which may be any word here."""
    special = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
    ends = configured if isinstance(configured, list) else [configured]
    yield from (i for i in ends if isinstance(i, int) and i in special)


def _known(backend: Backend, token: str) -> int:
    token_id = backend.token_to_id(token)
    assert token_id is not None, token
    return token_id

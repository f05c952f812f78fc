"""Finding a server's model and dialect, and checking that ids mean there what they mean here."""

from __future__ import annotations

from collections.abc import Callable

from thack.config import ServerSettings
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError, ServerError, UsageError
from thack.serving.client import Client, Refusal
from thack.serving.dialects import DIALECTS, Dialect
from thack.serving.teacher import RemoteTeacher

_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp"}
_TEXTS = ("def read(path):\n    return 1.5", "Ünïcode — «déjà vu», 日本語 🙂", "The  quick\tbrown fox, 1234567.")
_ABSENT = (404, 405, 501)


def connect(settings: ServerSettings, client: Client, tokenizer: Tokenizer, k: int) -> RemoteTeacher:
    """The teacher that the settings name.

    Args:
        settings: of the server.
        client: of it.
        tokenizer: of the model, from `settings.tokenizer`.
        k: ids per token that it will be asked for.

    Raises:
        UsageError: the server has no such model, or several and none is named.
        MismatchError: its tokenizer is another one.
        ServerError: it cannot be reached, or its tokenizer cannot be compared.
    """
    names = _models(client)
    model = settings.model or _only(names)
    if names and model not in names:
        raise UsageError(
            f"the server has no model {model!r}", hint=f"`server.model` must be one of: {', '.join(sorted(names))}"
        )
    spoken = settings.dialect if settings.dialect != "auto" else _OWNERS.get(names.get(model, ""), "openai")
    dialect = DIALECTS[spoken]
    _check_tokenizer(client, dialect, model, tokenizer)
    return RemoteTeacher(client, dialect, model, tokenizer, k)


def _models(client: Client) -> dict[str, str]:
    """The owner of each model, which names the server's software; empty where the server has no list."""
    try:
        found = client.get("/v1/models")
    except Refusal as error:
        if error.status in _ABSENT:
            return {}
        raise
    return {str(item.get("id", "")): str(item.get("owned_by", "")) for item in found.get("data") or ()}


def _only(names: dict[str, str]) -> str:
    if len(names) != 1:
        listed = f"one of: {', '.join(sorted(names))}" if names else "the name that the server knows it by"
        raise UsageError("which model of the server is the teacher is not said", hint=f"set `server.model` to {listed}")
    return next(iter(names))


def _check_tokenizer(client: Client, dialect: Dialect, model: str, tokenizer: Tokenizer) -> None:
    """Compare how texts are encoded; where a server encodes none, how many tokens it counts in them."""
    try:
        _compare(lambda text: dialect.tokenize(client, model, text), tokenizer)
        return
    except Refusal as error:
        if error.status not in _ABSENT:
            raise
    for text in _TEXTS:
        answer = client.post("/v1/completions", {"model": model, "prompt": text, "max_tokens": 1})
        count = (answer.get("usage") or {}).get("prompt_tokens")
        ids = tokenizer.encode(text)
        if count is None:
            raise ServerError(
                "the server's tokenizer cannot be compared: it has no /tokenize and counts no tokens",
                hint="use a server that has: vLLM, SGLang or llama.cpp's",
            )
        if count not in (len(ids), len(tokenizer.as_prompt(ids))):
            raise _other_tokenizer(text, f"{count} tokens", f"{len(ids)} tokens")


def _compare(encode: Callable[[str], list[int]], tokenizer: Tokenizer) -> None:
    for text in _TEXTS:
        theirs, ours = encode(text), tokenizer.encode(text).tolist()
        if theirs != ours:
            raise _other_tokenizer(text, str(theirs[:12]), str(ours[:12]))


def _other_tokenizer(text: str, theirs: str, ours: str) -> MismatchError:
    return MismatchError(
        "the server's model has another tokenizer",
        details=[f"text    {text!r}", f"server  {theirs}", f"here    {ours}"],
        hint="set `server.tokenizer` to the directory of that model's tokenizer",
    )

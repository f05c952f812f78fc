"""thack generate: write responses to prompts with a model."""

from __future__ import annotations

from thack.cli.app import app
from thack.cli.console import count, out
from thack.cli.verbs import Call, Flag, verb
from thack.config import GenerateSettings

FLAGS = {
    "model": Flag(key="model", help="directory of the model that writes"),
    "data": Flag(key="data.path", help="JSONL or Parquet with prompts"),
    "limit": Flag(key="data.limit"),
    "on_bad_line": Flag(key="data.on_bad_line"),
    "out": Flag(key="out", help="directory for responses.jsonl and its manifest"),
    "samples": Flag(key="samples"),
    "max_response_tokens": Flag(key="data.max_response_tokens", help="longest response"),
    "temperature": Flag(key="sampling.temperature", help="1 is the model's own distribution"),
    "greedy": Flag(key="sampling.greedy", help="take the most likely token instead of sampling"),
    "batch_size": Flag(key="batch_size", help="responses written at a time"),
    "seed": Flag(key="seed", help="fixes every random number, for any batch size"),
    "device": Flag(key="device", help="auto, cpu, cuda, cuda:1 or mps"),
}


@verb(
    app,
    "generate",
    GenerateSettings,
    flags=FLAGS,
    example="thack generate --model runs/oracle --data prompts.jsonl --out responses/",
    set_example="sampling.top_p=0.95",
)
def generate(call: Call[GenerateSettings]) -> None:
    """Write responses to prompts with a model, replayable to the token."""
    from thack.generation.run import run_generate

    result = run_generate(call.settings, progress=call.progress)

    def show() -> None:
        out().print(
            f"{count(result['responses'])} responses · {count(result['tokens'])} tokens"
            f" · {result['finished']:.1%} ended by themselves · {result['out']}"
        )

    call.emit(result, show)

"""Groups of settings that several commands share: data, models, sampling, evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from thack.schema.fields import FRACTION, SEED, Above, AtLeast, Between, Help, Matches

TrackerName = Literal["tensorboard", "wandb", "trackio"]
RouterLoss = bool | Literal["auto"]
DTypeName = Literal["auto", "float32", "bfloat16"]

Seed = Annotated[int, SEED, Help("seed of every random number")]
Device = Annotated[
    str,
    Matches(r"auto|(cpu|cuda|mps|xpu|hpu|xla)(:\d{1,4})?", "auto, cpu, cuda, cuda:1 or mps"),
    Help("device: auto, cpu, cuda, cuda:1 or mps"),
]
DType = Annotated[DTypeName, Help("precision of matrix products; auto: what the device is fast in")]
Trackers = Annotated[tuple[TrackerName, ...], Help("also send metrics.jsonl to these trackers")]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """Prompts, with responses where a command needs them."""

    path: Annotated[
        str,
        Help("JSONL, JSON, CSV, TSV, Parquet or Arrow file of prompts, pairs or conversations, or what generate wrote"),
    ] = ""
    prompt_key: Annotated[
        str, Help("key or column of the prompt or conversation; empty: prompt, messages, conversations or text")
    ] = ""
    response_key: Annotated[str, Help("key or column of the response; empty: response or completion")] = ""
    teacher_prompt_key: Annotated[
        str, Help("key or column of a prompt that the teacher alone reads; empty: teacher_prompt, where there is one")
    ] = ""
    teacher_system: Annotated[str, Help("conversations: system text that the teacher alone reads")] = ""
    teacher_template: Annotated[
        str, Help('text around the prompt that the teacher alone reads, such as "Answer in one line.\\n{prompt}"')
    ] = ""
    max_prompt_tokens: Annotated[int, AtLeast(1), Help("longer prompts are dropped, or cut if data.on_long = cut")] = (
        1024
    )
    max_response_tokens: Annotated[
        int,
        AtLeast(0),
        Help("longer responses are cut, and lose their end (0 = 1024 for conversations and raw texts, 128 for others)"),
    ] = 0
    on_long: Annotated[Literal["drop", "cut"], Help("what happens to a prompt longer than its maximum")] = "drop"
    on_bad_line: Annotated[
        Literal["stop", "skip"], Help("unreadable lines: stop and name the line, or skip and count")
    ] = "stop"
    max_line_bytes: Annotated[
        int, AtLeast(1), Help("longest line of a JSONL file; a longer one is unreadable, and is not loaded")
    ] = 1 << 25
    train_on: Annotated[
        Literal["last", "all", "marked"],
        Help("turns of the assistant that are trained: the last, all, or those with train = true or weight = 1"),
    ] = "last"
    end: Annotated[str, Help("token that ends a response, such as <|im_end|>; empty: the tokenizer's EOS")] = ""
    chat_template: Annotated[
        str, Help("name of one of the tokenizer's chat templates, or a .jinja file; empty: its default one")
    ] = ""
    template_variables: Annotated[
        str, Help('variables of the chat template as JSON, such as {"enable_thinking": false}')
    ] = ""
    date: Annotated[
        str, Help("what a chat template takes for today, such as 2026-11-29; empty: the day of the first use, recorded")
    ] = ""
    control_tokens: Annotated[
        Literal["control", "text"], Help("what a control token that is written out in the data becomes")
    ] = "control"
    limit: Annotated[int, AtLeast(0), Help("maximum number of prompts (0 = no limit)")] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """How models that are not trained are loaded, for a teacher larger than one GPU or a quantised one."""

    backend: Annotated[
        Literal["auto", "native", "transformers"],
        Help("implementation of the model; auto: native where the architecture is known"),
    ] = "auto"
    device_map: Annotated[
        str, Help("device_map of transformers, such as auto (needs accelerate); empty: all on `device`")
    ] = ""
    dtype: Annotated[str, Help("precision of the weights, such as bfloat16; empty: float32")] = ""
    quantization: Annotated[
        str, Help('quantisation config of transformers as JSON, such as {"quant_method": "hqq", "nbits": 4}')
    ] = ""
    full_hash: Annotated[bool, Help("fingerprint every weight, instead of a sample of each tensor")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """A teacher behind a server, asked over HTTP."""

    url: Annotated[str, Help("address of a server that runs the teacher, such as http://localhost:8000")] = ""
    model: Annotated[str, Help("name of the model on the server; empty: the only one it has")] = ""
    tokenizer: Annotated[str, Help("directory with the tokenizer of the server's model")] = ""
    dialect: Annotated[
        Literal["auto", "vllm", "sglang", "llama.cpp", "openai"], Help("what the server speaks; auto: it is asked")
    ] = "auto"
    logprobs: Annotated[
        Literal["auto", "raw", "processed"],
        Help(
            "what its log-probabilities are; auto: raw, and answers that are seen to be processed or stale are refused"
        ),
    ] = "auto"
    concurrency: Annotated[int, AtLeast(1), Help("requests at a time")] = 16
    retries: Annotated[int, AtLeast(0), Help("how often a request is repeated after 429, 5xx or a lost connection")] = 8
    timeout_s: Annotated[
        float, Above(0), Help("seconds without a byte from the server, after which a request is lost")
    ] = 600.0
    answer_bytes: Annotated[int, AtLeast(1024), Help("most bytes of one answer; a longer one is refused")] = 1 << 28
    tolerance: Annotated[
        float, FRACTION, Help("total variation on the probe prompts above which the teacher is another one")
    ] = 0.02
    key_variable: Annotated[str, Help("environment variable that holds the API key; it is sent if it is set")] = (
        "OPENAI_API_KEY"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureSettings:
    """A model trained from scratch."""

    family: Annotated[
        Literal["decoder", "encoder-decoder"],
        Help("decoder: thack's own; encoder-decoder: T5 of transformers (needs thack[hf])"),
    ] = "decoder"
    hidden_size: Annotated[int, AtLeast(1), Help("width of the hidden states")] = 128
    num_layers: Annotated[int, AtLeast(1), Help("number of blocks")] = 2
    num_heads: Annotated[int, AtLeast(1), Help("attention heads of a block")] = 4
    num_kv_heads: Annotated[int, AtLeast(0), Help("heads of keys and values (0 = num_heads)")] = 0
    intermediate_size: Annotated[
        int, AtLeast(0), Help("width of the MLP (0 = 8/3 of hidden_size, rounded up to a multiple of 16)")
    ] = 0
    max_positions: Annotated[int, AtLeast(1), Help("longest sequence, prompt and response together")] = 2048
    tie_head: Annotated[
        bool | Literal["auto"],
        Help("share the weights of the embedding and the LM head; auto: with more than 8192 tokens in the vocabulary"),
    ] = "auto"
    dropout: Annotated[float, Between(0, 1, without_high=True), Help("dropout rate in training")] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """How responses are sampled."""

    temperature: Annotated[float, Above(0), Help("sampling temperature; 1 is the model's own distribution")] = 1.0
    top_k: Annotated[int, AtLeast(0), Help("sample from the k most likely tokens (0 = all)")] = 0
    top_p: Annotated[
        float,
        Between(0, 1, without_low=True),
        Help("sample from the most likely tokens whose probabilities sum to this (1 = all)"),
    ] = 1.0
    min_p: Annotated[float, FRACTION, Help("drop tokens below this share of the largest probability (0 = none)")] = 0.0
    greedy: Annotated[bool, Help("take the most likely token instead of sampling")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """When a run is evaluated, and what is measured beside golden and proxy."""

    count: Annotated[
        int, AtLeast(0), Help("evaluations per run after the one at step 0; fewer where max_share says so")
    ] = 12
    every: Annotated[int, AtLeast(0), Help("steps between evaluations, instead of count (0 = as count says)")] = 0
    max_share: Annotated[
        float,
        Between(0, 1, without_low=True),
        Help("largest share of a run's work for evaluations, if 6 to judge are left (1 = always count)"),
    ] = 0.25
    spacing: Annotated[Literal["log", "linear"], Help("spread evaluations evenly in log(step) or in step")] = "log"
    batch_size: Annotated[int, AtLeast(1), Help("sequences per forward pass")] = 64
    student_samples: Annotated[bool, Help("also measure on responses newly sampled from the student")] = True
    health: Annotated[bool, Help("also entropy, overlap, calibration, and divergence by position")] = True
    per_byte: Annotated[
        bool,
        Help("also measure log ratios in nats per byte, which compare students of different tokenizers"),
    ] = False
    bootstrap: Annotated[int, AtLeast(1), Help("resamples of prompts for each interval")] = 1000
    tasks: Annotated[
        tuple[str, ...], Help("tasks of lm-evaluation-harness that a distillation runs at its evaluations")
    ] = ()
    tasks_path: Annotated[str, Help("directory of task files (YAML) of your own; empty: the harness's alone")] = ""
    tasks_at: Annotated[Literal["end", "every"], Help("at the last evaluation, or at every one")] = "end"
    tasks_limit: Annotated[int, AtLeast(0), Help("documents of each task (0 = all)")] = 0
    kept_prompts: Annotated[
        int, AtLeast(0), Help("held-out prompts whose responses a run keeps token by token, for its report")
    ] = 8

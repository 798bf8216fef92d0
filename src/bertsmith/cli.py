"""The command line: a thin layer, one command per stage, each imported only when it is asked for."""

from __future__ import annotations

import importlib
import json
import os
from typing import Any

import click

import bertsmith
from bertsmith.catalogue.commands import WideFormatter, in_language
from bertsmith.catalogue.translate import LANGUAGES, VARIABLE, language, phrase, translated

# What each command is, without importing it: `bertsmith --help` starts at once.
_SUMMARIES = {
    "vocab": "Learn a WordPiece vocabulary from text.",
    "prepare": "Turn text into a token store to train on.",
    "plan": "Say what a pre-training run takes: steps, time, memory, disk, cost.",
    "pretrain": "Pre-train a BERT: masked language model and next-sentence prediction.",
    "watch": "Watch a run's curves as they grow, in the browser.",
    "fill": "Fill the [MASK]s of a text.",
    "next": "Say whether B is the next sentence after A.",
    "show": "Show how the model sees a text: tokens, ids, words, segments, spans.",
    "finetune": "Tune a pre-trained model for a task.",
    "evaluate": "Score a fine-tuned model on labelled rows.",
    "predict": "Predict with a fine-tuned model.",
    "serve": "Put models behind HTTP, with a page to try them.",
    "embed": "Turn texts into vectors: features for other models.",
    "export": "Write a model for runtimes without torch: ONNX, OpenVINO, sentence-transformers.",
    "compare": "See what BERT is worth on your rows, beside models without it.",
    "ablate": "Pre-train the same network in several ways, and see what each is worth in tasks.",
    "tags": "Write a tagged file's entities in another scheme (BIO, IOB1, BIOES, BILOU, BMES).",
    "convert": "Turn a published BERT with pickled weights into a directory with safetensors.",
    "quickstart": "Do all of it on text that is already on this machine, in a few minutes.",
}

# Command: settings model, module and function of the stage, example.
_STAGES = {
    "vocab": (
        "config.VocabularySettings",
        "text.vocabulary",
        "learn_vocabulary",
        "bertsmith vocab texts/ --size 8000 -o vocab",
    ),
    "prepare": ("config.PrepareSettings", "text.prepare", "prepare", "bertsmith prepare texts/ --vocab vocab -o store"),
    "plan": (
        "plan_config.PlanSettings",
        "planning.show",
        "show_plan",
        "bertsmith plan --size base --tokens 137e9 --devices 8 --device-tflops 400 --mfu 0.45",
    ),
    "pretrain": (
        "config.PretrainSettings",
        "training.pretrain",
        "pretrain",
        "bertsmith pretrain store --size auto --budget 30m -o run",
    ),
    "watch": ("watch_config.WatchSettings", "watching.watch", "watch", "bertsmith watch run"),
    "evaluate": (
        "task_config.EvaluateSettings",
        "serving.evaluating",
        "evaluate",
        "bertsmith evaluate tuned --input test.csv -o scores",
    ),
    "predict": (
        "task_config.PredictSettings",
        "serving.predictor",
        "predict_file",
        "bertsmith predict tuned --input new.csv -o predictions.jsonl",
    ),
    "serve": ("serve_config.ServeSettings", "service.serve", "serve", "bertsmith serve tuned run --port 8000"),
    "embed": (
        "feature_config.EmbedSettings",
        "features.embed",
        "embed",
        "bertsmith embed run --input texts.csv --text text -o vectors.parquet",
    ),
    "export": (
        "export_config.ExportSettings",
        "exporting.export",
        "export",
        "bertsmith export tuned --check test.csv -o tuned/onnx",
    ),
    "ablate": (
        "ablation_config.AblateSettings",
        "ablation.ablate",
        "ablate",
        "bertsmith ablate store --budget 20m --tasks reviews.yaml --tasks names.yaml -o ablation",
    ),
    "tags": (
        "task_config.TagsSettings",
        "serving.writing",
        "convert_tags",
        "bertsmith tags train.conll --scheme BIOES -o bioes.conll",
    ),
    "convert": (
        "config.ConvertSettings",
        "model.convert",
        "convert",
        "bertsmith convert bert-base --from-pickle -o bert-base-safetensors",
    ),
}


# Task: what it is, settings model, example.
_TASKS = {
    "classify": (
        "One label for a text or a pair of texts.",
        "task_config.ClassifySettings",
        "bertsmith finetune classify run --train train.csv --dev dev.csv --text text --label label -o tuned",
    ),
    "multilabel": (
        "Any number of labels for a text or a pair of texts.",
        "task_config.MultilabelSettings",
        "bertsmith finetune multilabel run --train train.csv --dev dev.csv --label tags --separator '|' -o tuned",
    ),
    "regress": (
        "A number for a text or a pair of texts.",
        "task_config.RegressSettings",
        "bertsmith finetune regress run --train train.csv --dev dev.csv --text a --text-b b --label score -o tuned",
    ),
    "qa": (
        "Which part of a context answers a question (SQuAD, KorQuAD, tables).",
        "task_config.QaSettings",
        "bertsmith finetune qa run --train train.json --dev dev.json -o tuned",
    ),
    "tag": (
        "A tag for every word or character: entities, parts of speech.",
        "task_config.TagSettings",
        "bertsmith finetune tag run --train train.conll --dev dev.conll -o tuned",
    ),
    "choose": (
        "Which of several endings follows a context.",
        "task_config.ChooseSettings",
        "bertsmith finetune choose run --train train.csv --dev dev.csv --endings a,b,c,d --label right -o tuned",
    ),
}


# The same for comparisons.
_COMPARISONS = {
    "classify": (
        "One label for a text or a pair of texts.",
        "compare_config.CompareClassifySettings",
        "bertsmith compare classify run --train train.csv --dev dev.csv --test test.csv -o comparison",
    ),
    "tag": (
        "A tag for every word or character: entities, parts of speech.",
        "compare_config.CompareTagSettings",
        "bertsmith compare tag run --train train.conll --dev dev.conll --test test.conll -o comparison",
    ),
}


class LazyGroup(click.Group):
    """A group whose commands are built when they are needed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take --lang wherever it stands, before a command is built in some language."""
        return super().parse_args(ctx, _language_first(args))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the work."""
        return list(_SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Build one command."""
        groups: dict[str, click.Command] = {"finetune": _finetune, "compare": _compare}
        plain = {"fill": _fill, "next": _next, "show": _show, "quickstart": _quickstart}
        found = (groups | plain).get(cmd_name)
        if cmd_name in _STAGES:
            model_name, module, function, example = _STAGES[cmd_name]
            found = _stage(cmd_name, _SUMMARIES[cmd_name], model_name, module, function, example)
        return None if found is None else in_language(found)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help in the language of messages."""
        super(LazyGroup, in_language(self)).format_help(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries without building the commands."""
        with formatter.section(phrase("Commands")):
            formatter.write_dl([(name, translated(summary)) for name, summary in _SUMMARIES.items()])


def _language_first(args: list[str]) -> list[str]:
    ends = args.index("--") if "--" in args else len(args)
    for n, each in enumerate(args[:ends]):
        if each.partition("=")[0] == "--lang":
            after = n + (1 if "=" in each else 2)
            return args[n:after] + args[:n] + args[after:]
    return args


def _speak(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Remember the language where other processes of this run find it too."""
    if value is not None:
        os.environ[VARIABLE] = value
    if language() != "en":
        ctx.formatter_class = WideFormatter


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(bertsmith.__version__, prog_name="bertsmith")
@click.option(
    "--lang",
    type=click.Choice(LANGUAGES),
    is_eager=True,
    expose_value=False,
    callback=_speak,
    help="Language of messages and help; by default that of BERTSMITH_LANG, or of the locale.",
)
def cli() -> None:
    """BERT from raw text to a model in use, for English and Korean.

    Start with `bertsmith quickstart`, or with your own text: vocab, prepare, pretrain, then finetune and predict.
    """


class TaskGroup(click.Group):
    """A group with a command a task, built when they are needed.

    Args:
        tasks: by name what each is, its settings model and an example.
        verb: what is done, for the help.
        stage: module and function.
    """

    def __init__(
        self, *args: Any, tasks: dict[str, tuple[str, str, str]], verb: str, stage: tuple[str, str], **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self._tasks, self._verb, self._target = tasks, verb, stage

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the tasks."""
        return list(self._tasks)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Build one task's command."""
        if cmd_name not in self._tasks:
            return None
        summary, model_name, example = self._tasks[cmd_name]
        return in_language(_stage(cmd_name, f"{self._verb}: {summary}", model_name, *self._target, example))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries without building the commands."""
        with formatter.section(phrase("Tasks")):
            formatter.write_dl([(name, translated(summary)) for name, (summary, _, _) in self._tasks.items()])


_finetune = TaskGroup(
    "finetune",
    tasks=_TASKS,
    verb="Fine-tune",
    stage=("training.finetune", "finetune"),
    help="Tune a pre-trained model for a task: a new output layer, all weights trained.",
    subcommand_metavar="TASK MODEL [OPTIONS]",
    epilog=f"Example: {_TASKS['classify'][2]}",
)
_compare = TaskGroup(
    "compare",
    tasks=_COMPARISONS,
    verb="Compare",
    stage=("comparison.compare", "compare_models"),
    help="See what BERT is worth on your rows: fine-tuned, frozen below other models, and those models without it.",
    subcommand_metavar="TASK MODEL [OPTIONS]",
    epilog=f"Example: {_COMPARISONS['classify'][2]}",
)


def settings_model(name: str) -> type[Any]:
    """Return a settings model by its module and name."""
    module, _, model = name.partition(".")
    found: type[Any] = getattr(importlib.import_module(f"bertsmith.{module}"), model)
    return found


def _stage(name: str, summary: str, model_name: str, module: str, function: str, example: str) -> click.Command:
    from bertsmith.command_options import parameters, settings_from

    model = settings_model(model_name)

    def run(**typed: Any) -> None:
        settings = settings_from(model, typed)
        getattr(importlib.import_module(f"bertsmith.{module}"), function)(settings)

    arguments = [
        (field_name.upper(), field.description)
        for field_name, field in model.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("argument")
    ]
    about = "\n\n".join([summary, *(f"{argument}: {text}" for argument, text in arguments)])
    return click.Command(name, callback=run, params=parameters(model), help=about, epilog=f"Example: {example}")


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@click.command("fill", epilog='Example: bertsmith fill run "The capital of [MASK] is Paris."')
@click.argument("model")
@click.argument("text")
@click.option("--top-k", default=5, show_default=True, type=click.IntRange(min=1), help="How many tokens to show.")
@_as_json
def _fill(model: str, text: str, top_k: int, as_json: bool) -> None:
    """Fill the [MASK]s of TEXT with the likeliest tokens. MODEL is a pre-training run or a model directory."""
    from bertsmith.serving.looking import fill

    blanks = fill(model, text, top_k)
    if as_json:
        click.echo(json.dumps([dict(blank) for blank in blanks], ensure_ascii=False))
        return
    for number, blank in enumerate(blanks, start=1):
        if len(blanks) > 1:
            click.echo(phrase("blank {1}", str(number)))
        for token, share in blank:
            click.echo(f"  {share:6.1%}  {'█' * round(30 * share):<30}  {token}")


@click.command("next", epilog='Example: bertsmith next run "The door opened." "A man came in."')
@click.argument("model")
@click.argument("a")
@click.argument("b")
@_as_json
def _next(model: str, a: str, b: str, as_json: bool) -> None:
    """Say how probable it is that B is the next sentence after A. MODEL is a pre-training run."""
    from bertsmith.serving.looking import next_sentence

    share = next_sentence(model, a, b)
    verdict = phrase("B is the next sentence") if share >= 0.5 else phrase("B is not the next sentence")
    said = phrase("{1} (probability that it is: {2})", verdict, f"{share:.1%}")
    click.echo(json.dumps({"is_next": share}) if as_json else said)


@click.command("show", epilog='Example: bertsmith show run "한국어 ㅋㅋㅋ" "a second text"')
@click.argument("model")
@click.argument("text")
@click.argument("text_b", required=False)
@_as_json
def _show(model: str, text: str, text_b: str | None, as_json: bool) -> None:
    """Show the tokens of a text or pair. MODEL is a model, a run or a vocabulary directory."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from bertsmith.serving.looking import show

    rows = show(model, text, text_b)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], ensure_ascii=False))
        return
    table = Table(*map(translated, ("position", "token", "id", "segment", "word", "span", "characters")))
    for row in rows:
        word = "" if row.word is None else str(row.word)
        span = "" if row.span is None else f"{row.span[0]}-{row.span[1]}"
        cells = (str(row.position), row.token, str(row.token_id), str(row.segment), word, span, row.characters)
        table.add_row(*(cell.replace("[", "\\[") for cell in cells))
    Console().print(table)


@click.command("quickstart", epilog="Example: bertsmith quickstart -o quickstart --budget 4m")
@click.option("-o", "--output", default="quickstart", show_default=True, help="Directory for everything it makes.")
@click.option("--budget", default="4m", show_default=True, help="Time for pre-training.")
def _quickstart(output: str, budget: str) -> None:
    """Do all of it on the English prose that every Python installation carries, and write a page to look at."""
    from pathlib import Path

    from bertsmith.quickstart.run import run_quickstart

    run_quickstart(Path(output), budget)

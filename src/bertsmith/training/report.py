"""Self-contained HTML pages: curves, tables, confusion matrices. No network, no script, all text escaped."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bertsmith import files
from bertsmith.config import read_yaml
from bertsmith.training.checkpoint import read_metrics

# Okabe and Ito's colours, which stay apart for colour-blind eyes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MAX_POINTS = 800

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, as HTML blocks made by the functions of this module."""

    title: str
    blocks: Sequence[Markup]


def write_report(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> Path:
    """Write a page and return its path."""
    source = resources.files("bertsmith.training").joinpath("templates/report.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    files.write_text(path, template.render(title=title, subtitle=subtitle, sections=sections))
    return path


def paragraph(text: str) -> Markup:
    """Return a paragraph."""
    return Markup("<p>{}</p>").format(text)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """Return a table; columns of text stand left, columns of numbers right."""
    is_text = [any(isinstance(row[n], str) for row in rows) for n in range(len(columns))]

    def cells(tag: str, values: Sequence[object]) -> Markup:
        return Markup("").join(
            Markup("<{0}{1}>{2}</{0}>").format(tag, Markup(' class="text"') if text else "", _shown(value))
            for value, text in zip(values, is_text, strict=True)
        )

    head = cells("th", columns)
    body = Markup("").join(Markup("<tr>{}</tr>").format(cells("td", row)) for row in rows)
    return Markup('<div class="scroll"><table><tr>{}</tr>{}</table></div>').format(head, body)


def bar_rows(values: Sequence[tuple[str, float]]) -> Markup:
    """Return horizontal bars for shares between 0 and 1."""
    rows = [
        Markup('<span>{}</span><i style="width:{}%"></i><span>{}</span>').format(name, f"{100 * v:.2f}", f"{v:.1%}")
        for name, v in values
    ]
    return Markup('<div class="bars">{}</div>').format(Markup("").join(rows))


def confusion_table(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Markup:
    """Return a confusion matrix as a shaded table: a row a true label, a column a predicted one."""
    head = Markup("<th>true \\ predicted</th>") + Markup("").join(Markup("<th>{}</th>").format(n) for n in labels)
    rows = []
    for label, counts in zip(labels, matrix, strict=True):
        total = max(1, sum(counts))
        cells = Markup("").join(
            Markup('<td style="background:rgba(0,114,178,{})">{}</td>').format(f"{0.75 * n / total:.3f}", f"{n:,}")
            for n in counts
        )
        rows.append(Markup("<tr><th>{}</th>{}</tr>").format(label, cells))
    return Markup('<div class="scroll"><table class="heat"><tr>{}</tr>{}</table></div>').format(
        head, Markup("").join(rows)
    )


def line_chart(
    series: Mapping[str, Points], x_label: str, y_label: str, reference: Mapping[str, float] | None = None
) -> Markup:
    """Return curves as an inline SVG, with dashed horizontal reference lines."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text, in the reader's fonts; the fixed salt makes equal charts equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bertsmith", "font.family": "sans-serif"}):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        axes = figure.subplots()
        for (name, points), colour in zip(series.items(), itertools.cycle(_COLOURS), strict=False):
            thinned = points[:: max(1, len(points) // _MAX_POINTS)]
            marker = "o" if len(points) <= 30 else None
            axes.plot(*zip(*thinned, strict=True), label=name, color=colour, linewidth=1.6, marker=marker, markersize=3)
        for name, value in (reference or {}).items():
            axes.axhline(value, color="#667085", linestyle="--", linewidth=1, label=name)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    # What matplotlib wrote escapes its own text.
    return Markup("<figure>{}</figure>").format(Markup(out.getvalue().split("?>", 1)[-1].split('dtd">', 1)[-1]))


def pretraining_sections(run: Path) -> list[Section]:
    """Return the sections of a pre-training run from its metrics.jsonl and config.yaml."""
    entries = read_metrics(run / "metrics.jsonl")
    train = [e for e in entries if e["kind"] == "train"]
    held = [e for e in entries if e["kind"] == "eval"]
    sections = []
    if held:
        last = held[-1]
        rows = [
            ("held-out MLM loss (nats)", last["mlm_loss"]),
            ("unigram entropy: what frequencies alone give", last["unigram_entropy"]),
            ("held-out MLM accuracy", f"{last['mlm_accuracy']:.1%}"),
            ("perplexity", last["perplexity"]),
            ("next-sentence accuracy", f"{last['nsp_accuracy']:.1%}"),
            ("always the commoner answer", f"{last['nsp_majority']:.1%}"),
            ("steps", last["step"]),
        ]
        if train:
            rows += [("tokens seen", train[-1]["tokens"]), ("minutes", train[-1]["seconds"] / 60)]
        sections.append(Section("What came out", [table(("", "value"), rows)]))
        curves: dict[str, Points] = {"held-out": [(e["step"], e["mlm_loss"]) for e in held]}
        if train:
            curves = {"training, smoothed": _smooth(train, "mlm_loss"), **curves}
        reference = {"unigram entropy": last["unigram_entropy"]}
        sections.append(Section("Masked language model", [line_chart(curves, "step", "loss (nats)", reference)]))
        accuracy = {
            "MLM accuracy": [(e["step"], e["mlm_accuracy"]) for e in held],
            "next-sentence accuracy": [(e["step"], e["nsp_accuracy"]) for e in held],
        }
        chart = line_chart(
            accuracy, "step", "share", {"next sentence, always the commoner answer": last["nsp_majority"]}
        )
        sections.append(Section("Held-out accuracy", [chart]))
    if train:
        rate = line_chart({"learning rate": [(e["step"], e["learning_rate"]) for e in train]}, "step", "learning rate")
        speed = line_chart({"tokens/s": _smooth(train, "tokens_per_second")}, "step", "tokens/s")
        sections.append(Section("How it ran", [rate, speed]))
    settings = read_yaml(run / "config.yaml")
    sections.append(Section("Settings", [table(("setting", "value"), [(k, str(v)) for k, v in settings.items()])]))
    return sections


def pretraining_report(run: Path) -> Path:
    """Write RUN/report.html for a pre-training run."""
    return write_report(run / "report.html", "Pre-training", run.resolve().name, pretraining_sections(run))


def finetuning_sections(directory: Path) -> list[Section]:
    """Return the sections of a fine-tuning run from its scores.json, metrics.jsonl and config.yaml."""
    scores = files.read_json(directory / "scores.json", what="the scores of a fine-tuning run")
    entries = read_metrics(directory / "metrics.jsonl")
    mean, deviation = scores["mean"], scores["deviation"]
    rows: list[tuple[object, ...]] = [
        ("accuracy", mean["accuracy"], deviation["accuracy"]),
        ("macro F1", mean["macro_f1"], deviation["macro_f1"]),
        ("accuracy of the most frequent label", scores["majority_accuracy"], ""),
    ]
    facts = (
        f"{len(scores['seeds'])} seed(s); {scores['train_rows']:,} training rows, {scores['dev_rows']:,} dev rows; "
        f"texts cut at the length limit: {scores['truncated']['train']:,} in training, "
        f"{scores['truncated']['dev']:,} in dev. The table and the matrix are the kept model's, on dev."
    )
    curves: dict[str, Points] = {}
    for seed in scores["seeds"]:
        evaluations = [e for e in entries if e["kind"] == "eval" and e["seed"] == seed["seed"]]
        curves[f"seed {seed['seed']}"] = [(e["epoch"], e[scores["metric"]]) for e in evaluations]
    losses = {
        f"seed {s['seed']}": _smooth([e for e in entries if e["kind"] == "train" and e["seed"] == s["seed"]], "loss")
        for s in scores["seeds"]
    }
    per_class = [(c["label"], c["precision"], c["recall"], c["f1"], c["support"]) for c in scores["per_class"]]
    settings = read_yaml(directory / "config.yaml")
    return [
        Section("What came out", [table(("on dev", "mean", "deviation"), rows), paragraph(facts)]),
        Section("Per label", [table(("label", "precision", "recall", "F1", "rows"), per_class)]),
        Section("Confusion matrix", [confusion_table(scores["confusion"], scores["labels"])]),
        Section(
            "Curves",
            [
                line_chart(curves, "epoch", f"dev {scores['metric']}"),
                line_chart(losses, "step", "training loss, smoothed (nats)"),
            ],
        ),
        Section("Settings", [table(("setting", "value"), [(k, str(v)) for k, v in settings.items()])]),
    ]


def finetuning_report(directory: Path) -> Path:
    """Write DIR/report.html for a fine-tuning run."""
    return write_report(
        directory / "report.html", "Fine-tuning", directory.resolve().name, finetuning_sections(directory)
    )


def _smooth(entries: Sequence[Mapping[str, Any]], key: str) -> Points:
    points: list[tuple[float, float]] = []
    for entry in entries:
        before = points[-1][1] if points else entry[key]
        points.append((entry["step"], 0.95 * before + 0.05 * entry[key]))
    return points


def _shown(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.3f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)

"""Self-contained HTML pages: curves, tables, confusion matrices. No network, no script, all text escaped."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from bertsmith import files
from bertsmith.catalogue.translate import language, phrase, translated
from bertsmith.configuration import read_yaml
from bertsmith.console import columns_of, justified
from bertsmith.tasks.scores import spoken
from bertsmith.training.checkpoint import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for colour-blind eyes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MAX_POINTS = 800
_MAX_SHOWN = 600
_MAX_ANSWERS = 40

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, as HTML blocks made by the functions of this module."""

    title: str
    blocks: Sequence[Markup]


def write_report(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> Path:
    """Write a page in the language of messages and return its path."""
    import jinja2

    source = resources.files("bertsmith.training").joinpath("templates/report.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    said = [replace(section, title=translated(section.title)) for section in sections]
    page = template.render(title=translated(title), subtitle=subtitle, sections=said, language=language())
    files.write_text(path, page)
    return path


def paragraph(text: str) -> Markup:
    """Return a paragraph."""
    return Markup("<p>{}</p>").format(translated(text))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """Return a table; columns of text stand left, columns of numbers right.

    The first cells under an empty heading are words of this program, and said in the language of messages.
    """
    if not columns[0]:
        rows = [(translated(str(first)), *rest) for first, *rest in rows]
    is_text = [any(isinstance(row[n], str) for row in rows) for n in range(len(columns))]

    def cells(tag: str, values: Sequence[object]) -> Markup:
        return Markup("").join(
            Markup("<{0}{1}>{2}</{0}>").format(tag, Markup(' class="text"') if text else "", _shown(value))
            for value, text in zip(values, is_text, strict=True)
        )

    head = cells("th", [translated(column) for column in columns])
    body = Markup("").join(Markup("<tr>{}</tr>").format(cells("td", row)) for row in rows)
    return Markup('<div class="scroll"><table><tr>{}</tr>{}</table></div>').format(head, body)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return a table as lines of text: the first column to the left, the others to the right."""
    widths = [max(columns_of(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            justified(cell, width, right=n > 0) for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def bar_rows(values: Sequence[tuple[str, float]]) -> Markup:
    """Return horizontal bars for shares between 0 and 1."""
    rows = [
        Markup('<span>{}</span><i style="width:{}%"></i><span>{}</span>').format(name, f"{100 * v:.2f}", f"{v:.1%}")
        for name, v in values
    ]
    return Markup('<div class="bars">{}</div>').format(Markup("").join(rows))


def confusion_table(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Markup:
    """Return a confusion matrix as a shaded table: a row a true label, a column a predicted one."""
    names = (phrase("true \\ predicted"), *labels)
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in names)
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
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 3.4), layout="constrained")
    axes = drawn.subplots()
    for (name, points), colour in zip(series.items(), itertools.cycle(_COLOURS), strict=False):
        thinned = points[:: max(1, len(points) // _MAX_POINTS)]
        marker = "o" if len(points) <= 30 else None
        axes.plot(*zip(*thinned, strict=True), label=name, color=colour, linewidth=1.6, marker=marker, markersize=3)
    for name, value in (reference or {}).items():
        axes.axhline(value, color="#667085", linestyle="--", linewidth=1, label=name)
    axes.set_xlabel(translated(x_label))
    axes.set_ylabel(translated(y_label))
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False)
    return figure(drawn)


def figure(drawn: Figure) -> Markup:
    """Return a figure of matplotlib's as an inline SVG."""
    import matplotlib as mpl

    out = io.StringIO()
    # Text stays text, in the reader's fonts; the fixed salt makes equal charts equal files.
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bertsmith", "font.family": "sans-serif"}),
        warnings.catch_warnings(),
    ):
        # The font that it measures by has no Hangul; the reader's has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
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
        curves: dict[str, Points] = {phrase("held-out"): [(e["step"], e["mlm_loss"]) for e in held]}
        if train:
            curves = {phrase("training, smoothed"): _smooth(train, "mlm_loss"), **curves}
        reference = {phrase("unigram entropy"): last["unigram_entropy"]}
        sections.append(Section("Masked language model", [line_chart(curves, "step", "loss (nats)", reference)]))
        accuracy = {
            phrase("MLM accuracy"): [(e["step"], e["mlm_accuracy"]) for e in held],
            phrase("next-sentence accuracy"): [(e["step"], e["nsp_accuracy"]) for e in held],
        }
        always = {phrase("next sentence, always the commoner answer"): last["nsp_majority"]}
        chart = line_chart(accuracy, "step", "share", always)
        sections.append(Section("Held-out accuracy", [chart]))
    if train:
        rates = [(e["step"], e["learning_rate"]) for e in train]
        rate = line_chart({phrase("learning rate"): rates}, "step", "learning rate")
        speed = line_chart({phrase("tokens/s"): _smooth(train, "tokens_per_second")}, "step", "tokens/s")
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
    mean, deviation, metric = scores["mean"], scores["deviation"], scores["metric"]
    rows = [(translated(spoken(name)), mean[name], deviation[name]) for name in mean]
    curves: dict[str, Points] = {}
    losses: dict[str, Points] = {}
    for seed in scores["seeds"]:
        own = [e for e in entries if e["seed"] == seed["seed"]]
        name = phrase("seed {1}", str(seed["seed"]))
        curves[name] = [(e["epoch"], e[metric]) for e in own if e["kind"] == "eval"]
        losses[name] = _smooth([e for e in own if e["kind"] == "train"], "loss")
    facts = f"{len(scores['seeds'])} seed(s); what follows is the kept model's, on dev."
    settings = read_yaml(directory / "config.yaml")
    return [
        Section("What came out", [table(("on dev", "mean", "deviation"), rows), paragraph(facts)]),
        *score_sections(scores),
        Section(
            "Curves",
            [
                line_chart(curves, "epoch", f"dev {spoken(metric)}"),
                line_chart(losses, "step", "training loss, smoothed"),
            ],
        ),
        *_trial_sections(scores),
        _data_section(scores["data"]),
        Section("Settings", [table(("setting", "value"), [(k, str(v)) for k, v in settings.items()])]),
    ]


def score_sections(scores: Mapping[str, Any]) -> list[Section]:
    """Return the sections of scores as they stand in scores.json: details, confusion, worst errors."""
    sections = [Section(t["title"], [table(t["columns"], t["rows"])]) for t in scores["tables"]]
    if scores["confusion"]:
        sections.append(Section("Confusion matrix", [confusion_table(scores["confusion"], scores["labels"])]))
    if scores["mistakes"]:
        rows = [
            (m["line"], highlighted(m["text"], m["spans"]), m["gold"], m["predicted"], m["confidence"])
            for m in scores["mistakes"]
        ]
        blocks = [table(("line", "text", "right", "predicted", "confidence"), rows)]
        if any(m["spans"] for m in scores["mistakes"]):
            kinds = (("gold", "right and not predicted"), ("predicted", "predicted and not right"), ("both", "both"))
            marks = [Markup('<mark class="{}">{}</mark>').format(kind, translated(words)) for kind, words in kinds]
            blocks.insert(0, Markup("<p>{}</p>").format(Markup(" · ").join(marks)))
        sections.append(Section("Worst errors", blocks))
    return sections


def highlighted(text: str, spans: Sequence[Sequence[Any]]) -> Markup:
    """Return a text with its spans (start, end, kind) marked; of overlapping ones the first is shown."""
    parts, at = [], 0
    for start, end, kind in sorted(map(tuple, spans)):
        if start >= at:
            parts += [escape(text[at:start]), Markup('<mark class="{}">{}</mark>').format(kind, text[start:end])]
            at = end
    shown = text if len(text) <= _MAX_SHOWN or spans else text[:_MAX_SHOWN] + " ..."
    return Markup("").join([*parts, escape(shown[at:])])


def _trial_sections(scores: Mapping[str, Any]) -> list[Section]:
    """Return the table of a search's trials, best first; none without a search."""
    if not scores["trials"]:
        return []
    names = list(scores["chosen"])
    trials = sorted(scores["trials"], key=lambda t: -1.0 if t["value"] is None else -t["value"])
    rows = [
        (t["number"], *(f"{t['settings'][name]:.3g}" for name in names), t["epochs_done"], t["value"]) for t in trials
    ]
    shown = [(*row[:-1], phrase("stopped early") if row[-1] is None else f"{row[-1]:.3f}") for row in rows]
    columns = ("trial", *(spoken(name) for name in names), "epochs done", f"dev {spoken(scores['metric'])}")
    return [Section("Search", [table(columns, shown)])]


def _data_section(data: Mapping[str, Any]) -> Section:
    """Return what the rows look like: sizes, lengths, answers, repetitions."""
    splits = (data["train"], data["dev"])
    rows: list[tuple[object, ...]] = [
        (name, *(split[key] for split in splits))
        for name, key in (
            ("rows", "rows"),
            ("examples for the encoder", "examples"),
            ("rows cut at the length limit", "truncated"),
            ("longest example, tokens", "max_length"),
        )
    ]
    before = 0
    for n, (limit, _) in enumerate(splits[0]["lengths"]):
        name = f"{before + 1} to {limit} tokens" if limit else f"more than {before} tokens"
        rows.append((name, *(split["lengths"][n][1] for split in splits)))
        before = limit
    blocks = [table(("", "training", "dev"), rows)]
    if splits[0]["answers"]:
        dev = dict(splits[1]["answers"])
        answers = [(name, count, dev.get(name, 0)) for name, count in splits[0]["answers"][:_MAX_ANSWERS]]
        blocks.append(table(("answer", "training", "dev"), answers))
    same = f"{data['repeated']:,} training rows repeat another one; {data['shared']:,} dev rows stand in training too."
    return Section("Data", [*blocks, paragraph(same)])


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
    if isinstance(cell, str):
        return cell  # as it is: markup stays markup, text is escaped where it is put in
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def evaluation_report(directory: Path, scores: Mapping[str, Any]) -> Path:
    """Write DIR/report.html for scores of a model on other rows."""
    rows = [(spoken(name), value) for name, value in scores["metrics"].items()]
    sections = [Section("What came out", [table(("", "value"), rows)]), *score_sections(scores)]
    return write_report(directory / "report.html", "Evaluation", str(scores["input"]), sections)

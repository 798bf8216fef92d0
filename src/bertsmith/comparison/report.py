"""A comparison's table for the terminal, and its page: bars, learning curves, rows that one side alone gets right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from bertsmith.catalogue.translate import phrase, translated
from bertsmith.comparison.contenders import REFERENCE
from bertsmith.comparison.measures import Interval
from bertsmith.comparison.outcome import Example, Standing
from bertsmith.configuration import read_yaml
from bertsmith.console import human
from bertsmith.tasks.scores import spoken
from bertsmith.training.report import Section, aligned, figure, line_chart, paragraph, table, write_report


def comparison_table(standings: Sequence[Standing], measure: str) -> str:
    """Return the table as text."""
    columns, cells = _cells(standings, measure)
    return aligned([[translated(column) for column in columns], *cells])


def _cells(standings: Sequence[Standing], measure: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    columns = ("model", spoken(measure), "against BERT", "training", "prediction", "parameters", "setting")
    cells = []
    for s in standings:
        gap = s.difference
        against = "" if gap is None else _interval(gap)
        score = f"{s.mean:.3f} ± {s.deviation:.3f}" if len(s.scores) > 1 else f"{s.mean:.3f}"
        seconds = (f"{value:.1f} s" for value in (s.train_seconds, s.predict_seconds))
        setting = "" if s.setting is None else f"{s.setting:g}"
        cells.append((s.name, score, against, *seconds, human(s.parameters), setting))
    return columns, cells


def _interval(gap: Interval) -> str:
    return phrase("{1} ({2} to {3})", *(f"{value:+.3f}" for value in (gap.difference, gap.low, gap.high)))


def comparison_report(
    directory: Path,
    standings: Sequence[Standing],
    measure: str,
    sentence: str,
    examples: Mapping[str, Sequence[Example]],
    other: str | None,
) -> Path:
    """Write DIR/report.html and return its path.

    Args:
        directory: of the comparison.
        standings: the models' figures.
        measure: what is compared.
        sentence: the conclusion.
        examples: rows that one side alone gets right, by a heading.
        other: the best model without BERT, which is the other side.
    """
    columns, cells = _cells(standings, measure)
    runs = max(len(s.scores) for s in standings)
    explanation = (
        f"Test rows, mean and standard deviation over {runs} seed(s); against BERT: the difference from fine-tuned "
        "BERT with the 95 % interval of a paired bootstrap over rows and seeds. Each model's setting (learning rate, "
        "or C of a logistic regression) was chosen on dev among equally many. Seconds are of this machine; texts are "
        "cut into tokens beforehand, but for TF-IDF, whose own features are in its time. Frozen vectors are made once "
        "for all models that read them: their time is in prediction, not in training."
    )
    sections = [
        Section("What to use here", [paragraph(sentence)]),
        Section("All models", [table(columns, cells), paragraph(explanation), _bars(standings, measure)]),
    ]
    curves = {s.name: s.curve for s in standings if s.curve}
    if curves:
        chart = line_chart(
            {n: [(float(r), v) for r, v in c] for n, c in curves.items()}, "training rows", spoken(measure)
        )
        steps = sorted({rows for curve in curves.values() for rows, _ in curve})
        lines = [(name, *(f"{dict(curve).get(n, float('nan')):.3f}" for n in steps)) for name, curve in curves.items()]
        learned = table(("training rows", *(f"{n:,}" for n in steps)), lines)
        note = "Parts of the rows: one run, with the setting that was chosen on all of them. All rows: the mean above."
        sections.append(Section("Learning from fewer rows", [chart, learned, paragraph(note)]))
    for title, found in examples.items():
        cases = [(e.line, e.text, e.gold, e.first, e.second) for e in found]
        head = ("line", "text", "right", REFERENCE, other or "")
        sections.append(Section(title, [table(head, cases) if cases else paragraph("No such row.")]))
    sections.append(
        Section("The models", [table(("model", "what it is"), [(s.name, translated(s.about)) for s in standings])])
    )
    settings = [(name, str(value)) for name, value in read_yaml(directory / "config.yaml").items()]
    sections.append(Section("Settings", [table(("setting", "value"), settings)]))
    return write_report(directory / "report.html", "Comparison", directory.resolve().name, sections)


def _bars(standings: Sequence[Standing], measure: str) -> Markup:
    """Return the scores as bars with their deviations; models with pre-trained weights in another colour."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 0.7 + 0.34 * len(standings)), layout="constrained")
    axes = drawn.subplots()
    for place, s in enumerate(standings):
        colour = "#d55e00" if s.pretrained else "#0072b2"
        axes.barh(place, s.mean, xerr=s.deviation, color=colour, capsize=3, height=0.65)
        axes.text(s.mean + s.deviation, place, f" {s.mean:.3f}", va="center", fontsize=9)
    axes.set_yticks(range(len(standings)), [s.name for s in standings])
    axes.invert_yaxis()
    axes.set_xlabel(phrase("{1} (orange: pre-trained weights)", translated(spoken(measure))))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure(drawn)

"""An ablation's table, for the terminal and as a page with its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from bertsmith.ablation.rows import Row, TaskScores
from bertsmith.ablation.variants import REFERENCE
from bertsmith.catalogue.translate import translated
from bertsmith.configuration import read_yaml
from bertsmith.console import human
from bertsmith.tasks.scores import spoken
from bertsmith.training.report import Section, aligned, figure, paragraph, table, write_report


def ablation_table(rows: Sequence[Row]) -> str:
    """Return the table as text."""
    columns, cells = _cells(rows)
    return aligned([[translated(column) for column in columns], *cells])


def _cells(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    tasks = rows[0].tasks
    columns = ("variant", "tokens", "loss", "next", *(f"{t.task} ({translated(spoken(t.metric))})" for t in tasks))
    return columns, [
        (
            row.variant,
            "-" if row.tokens is None else human(row.tokens),
            "-" if row.loss is None else f"{row.loss:.3f}",
            "-" if row.next_sentence is None else f"{row.next_sentence:.1%}",
            *(f"{t.mean:.3f} ± {t.deviation:.3f}" for t in row.tasks),
        )
        for row in rows
    ]


def ablation_report(directory: Path, rows: Sequence[Row]) -> Path:
    """Write DIR/report.html and return its path."""
    columns, cells = _cells(rows)
    names = {row.variant: translated(row.about) for row in rows}
    runs = [len(task.scores) for task in rows[0].tasks]
    settings = read_yaml(directory / "config.yaml")
    pretrainings = settings["pretraining_seeds"]
    sections = [
        Section(
            "What each came to",
            [
                table(columns, cells),
                paragraph(
                    f"Means and standard deviations over {runs[0]} fine-tuning runs of {pretrainings} pre-training(s), "
                    "on the dev rows that also choose the epoch. With one pre-training a variant the deviation is of "
                    "fine-tuning alone. tokens: what fitted into the budget. loss: held out, in nats, of what the "
                    "variant itself predicts, so losses of other masks, and of next tokens, cannot be compared. next: "
                    "held-out next-sentence accuracy."
                ),
            ],
        ),
        *(
            Section(f"{task.task}: {translated(spoken(task.metric))}", [_picture([row.tasks[n] for row in rows], rows)])
            for n, task in enumerate(rows[0].tasks)
        ),
        Section("The variants", [table(("variant", "what it is"), list(names.items()))]),
        Section(
            "Settings",
            [table(("setting", "value"), [(k, str(v)) for k, v in settings.items()])],
        ),
    ]
    return write_report(directory / "report.html", "Ablation", directory.resolve().name, sections)


def _picture(scores: Sequence[TaskScores], rows: Sequence[Row]) -> Markup:
    """Return the means with their deviations, and every single run as a dot."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 0.6 + 0.36 * len(rows)), layout="constrained")
    axes = drawn.subplots()
    for place, (score, row) in enumerate(zip(scores, rows, strict=True)):
        colour = "#d55e00" if row.variant == REFERENCE else "#0072b2"
        axes.plot(score.scores, [place] * len(score.scores), "o", color=colour, alpha=0.35, markersize=4)
        axes.errorbar(score.mean, place, xerr=score.deviation, fmt="D", color=colour, capsize=3, markersize=5)
        if row.variant == REFERENCE:
            axes.axvline(score.mean, color="#667085", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.variant for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(translated(spoken(scores[0].metric)))
    axes.grid(alpha=0.25, axis="x")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure(drawn)

"""``bertsmith plan``: the figures of a plan as lines, or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from bertsmith.catalogue.translate import translated
from bertsmith.config import PretrainSettings
from bertsmith.console import clock, human, justified
from bertsmith.plan_config import PlanSettings
from bertsmith.planning.plan import Plan, plan

_DAY = 86_400
# Said even where they are pretrain's own defaults: what a run is.
_ALWAYS = ("size", "max_length", "batch_size")


def show_plan(settings: PlanSettings) -> Plan:
    """Print a plan to standard output and return it.

    Raises:
        InputError: as :func:`bertsmith.planning.plan.plan`.
    """
    found = plan(settings)
    if settings.as_json:
        print(json.dumps({"settings": settings.model_dump(mode="json", exclude={"as_json"}), **asdict(found)}))
    else:
        for name, text in _lines(settings, found):
            print(f"{justified(translated(name), 12)}{translated(text)}".rstrip())
    return found


def _lines(settings: PlanSettings, found: Plan) -> list[tuple[str, str]]:
    config, held = settings.encoder, found.memory
    several = f"{settings.devices:,} devices" if settings.devices > 1 else "1 device"
    text = settings.tokens / settings.epochs
    lines = [
        (
            "model",
            f"BERT {config.num_hidden_layers}x{config.hidden_size}, {human(found.parameters)} parameters, vocabulary "
            f"{config.vocab_size:,}",
        ),
        (
            "steps",
            f"{found.steps:,} of {settings.batch_size:,} sequences of {settings.max_length * settings.fill:.0f} tokens "
            f"({human(found.tokens_per_step)} tokens, {human(found.tokens_per_step * settings.mask_share)} to predict)",
        ),
        (
            "time",
            f"{_duration(found.seconds)} on {several}: {found.operations:.3g} operations at {settings.mfu:.0%} of "
            f"{settings.device_tflops:g} TFLOP/s each; {human(found.tokens_per_second)} tokens/s",
        ),
        (
            "memory",
            f"{human(held.peak)}B a device at most ({found.micro_batch:,} sequences at a time, {settings.precision})",
        ),
        (
            "",
            f"weights {human(held.weights)}B, optimizer {human(held.optimizer)}B, gradients {human(held.gradients)}B, "
            f"activations {human(held.activations)}B, loss {human(held.workspace)}B, process {human(held.process)}B",
        ),
        ("disk", f"a checkpoint {human(found.checkpoint)}B, the run's directory up to {human(found.run)}B"),
        ("", f"the token store {human(found.store)}B, for {human(text)} tokens of text"),
    ]
    if settings.device_memory is not None and found.memory.peak > settings.device_memory * 1e9:
        lines.append(("", _too_much(settings, found)))
    if found.cost is not None:
        hours = settings.devices * found.seconds / 3600
        lines.append(("cost", f"{found.cost:,.2f}: {hours:,.1f} device hours at {settings.price_per_hour:,.2f}"))
    return [*lines, ("next", _command(settings, found))]


def _command(settings: PlanSettings, found: Plan) -> str:
    """Return the command that makes the run: what it is, and what differs from pretrain's defaults."""
    theirs = PretrainSettings.model_fields
    # Passes over the text are said as steps.
    shared = [name for name in PlanSettings.model_fields if name in theirs and name != "epochs"]
    own = {name: getattr(settings, name) for name in shared}
    values = {
        **{name: value for name, value in own.items() if name in _ALWAYS or value != theirs[name].default},
        **({"device": "cpu"} if settings.on == "cpu" else {}),
        "steps": found.steps,
    }
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())
    return f"bertsmith pretrain store {options} -o run"


def _too_much(settings: PlanSettings, found: Plan) -> str:
    limit = f"warning: more than {settings.device_memory:g} GB"
    if not found.most_sequences:
        return f"{limit}, and so is a single sequence: take a smaller model, or devices with more memory"
    return f"{limit}; --micro-batch-size {found.most_sequences} would fit"


def _duration(seconds: float) -> str:
    return f"{seconds / _DAY:,.1f} days" if seconds >= 2 * _DAY else clock(seconds)

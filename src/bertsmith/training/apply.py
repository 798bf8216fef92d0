"""A model's outputs for examples: for evaluation and prediction alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bertsmith.batch import by_token_budget
from bertsmith.tasks.task import Examples, Facts, Outputs, Task
from bertsmith.training.device import autocast
from bertsmith.training.processes import ALONE, Processes
from bertsmith.training.sharding import is_sharded

_MAX_TOKENS = 4096


@torch.no_grad()
def apply_model(
    model: nn.Module,
    task: Task,
    examples: Examples,
    facts: Facts,
    device: torch.device,
    dtype: torch.dtype,
    processes: Processes = ALONE,
) -> Outputs:
    """Return one float32 array an example, in their order, without dropout.

    Examples of similar length go through the model together; what an example gets does not depend on the others.
    Several processes share the work, and each gets all outputs.
    """
    model.eval()
    own: dict[int, np.ndarray] = {}
    batches = by_token_budget(examples.lengths, _MAX_TOKENS)
    for numbers, counts in processes.dealt(batches, evenly=is_sharded(model)):
        batch = examples.batch(numbers)
        with autocast(dtype, device):
            output = model(batch.to(device))
        if not counts:
            continue
        own |= {int(n): part for n, part in zip(numbers, task.outputs(output, batch, facts), strict=True)}
    found = {number: part for some in processes.gathered(own) for number, part in some.items()}
    return [found[number] for number in range(len(examples.lengths))]

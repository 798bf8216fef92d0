"""What a pre-training run knows about held-out text, beside what frequencies alone would tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bertsmith.batch import Batch
from bertsmith.model.heads import PretrainingModel
from bertsmith.pretraining.statistics import log_unigram
from bertsmith.training.device import autocast
from bertsmith.training.processes import ALONE, Processes


@dataclass(frozen=True)
class Evaluation:
    """Figures over fixed held-out instances with fixed masks.

    Attributes:
        mlm_loss: mean cross entropy of the masked tokens (nats).
        mlm_accuracy: share of masked tokens whose best guess is right.
        perplexity: exp of ``mlm_loss``.
        nsp_loss: mean cross entropy of the pairs (nats).
        nsp_accuracy: share of pairs told right.
        nsp_majority: share that always giving the commoner answer tells right.
        unigram_entropy: ``mlm_loss`` of a model that knows only how frequent each token is (nats).
    """

    mlm_loss: float
    mlm_accuracy: float
    perplexity: float
    nsp_loss: float
    nsp_accuracy: float
    nsp_majority: float
    unigram_entropy: float


@torch.no_grad()
def evaluate(
    model: PretrainingModel,
    batches: Sequence[tuple[Batch, bool]],
    unigram_entropy: float,
    device: torch.device,
    dtype: torch.dtype,
    processes: Processes = ALONE,
) -> Evaluation:
    """Evaluate without dropout, each process those of its ``batches`` that count.

    The result does not depend on how they are batched.
    """
    model.eval()
    sums = [0.0] * 7
    for held, counts in batches:
        batch = held.to(device)
        assert batch.masked_labels is not None
        assert batch.labels is not None
        with autocast(dtype, device):
            losses = model.losses(batch)
        if not counts:
            continue
        found = [float(f) for f in (losses.mlm, losses.nsp, losses.mlm_right, losses.nsp_right, batch.labels.sum())]
        found += [len(batch.masked_labels), len(batch.labels)]
        sums = [total + more for total, more in zip(sums, found, strict=True)]
    mlm_loss, nsp_loss, mlm_right, nsp_right, nsp_random, mlm_count, nsp_count = processes.sums(sums)
    mean = mlm_loss / mlm_count
    return Evaluation(
        mlm_loss=mean,
        mlm_accuracy=mlm_right / mlm_count,
        perplexity=math.exp(min(mean, 700)),
        nsp_loss=nsp_loss / nsp_count,
        nsp_accuracy=nsp_right / nsp_count,
        nsp_majority=max(nsp_random, nsp_count - nsp_random) / nsp_count,
        unigram_entropy=unigram_entropy,
    )


def unigram_entropy(token_counts: np.ndarray, batches: Sequence[Batch]) -> float:
    """Return the mean of -log p(token) over the masked tokens, with p from ``token_counts`` (V,) plus one each."""
    labels = np.concatenate([batch.masked_labels.numpy() for batch in batches if batch.masked_labels is not None])
    return float(-log_unigram(token_counts)[labels].mean(dtype=np.float64))

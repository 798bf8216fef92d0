"""The networks that BERT is compared with. Each takes a packed batch and gives the task's logits, as BERT does.

What they read is a *source*: a module from a batch to a vector for each of its T tokens. It is a table of embeddings
that is learned from scratch, or BERT's frozen vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.model.sequences import over_each_sequence, where_directions_end

EMBEDDING_WIDTH, LSTM_WIDTH, FILTERS = 128, 128, 100
"""Widths of embeddings learned from scratch, of each direction of an LSTM, and filters of each width of a CNN."""

FILTER_WIDTHS = (3, 4, 5)
"""Tokens that a CNN's filters span (Kim 2014, section 3.1)."""

_DROPOUT = 0.5


class LearnedEmbeddings(nn.Module):
    """A table of token vectors, learned with the model that reads it."""

    def __init__(self, vocab_size: int, width: int = EMBEDDING_WIDTH) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.table.weight, std=0.1)

    def forward(self, batch: Batch) -> Tensor:
        """Return (T, W)."""
        vectors: Tensor = self.table(batch.token_ids)
        return vectors


class BagOfVectors(nn.Module):
    """The mean of a sequence's vectors and a linear layer: the order of the tokens plays no part."""

    def __init__(self, source: nn.Module, width: int, num_labels: int) -> None:
        super().__init__()
        self.source = source
        self.output = nn.Linear(width, num_labels)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (N, C)."""
        logits: Tensor = self.output(sequence_means(self.source(batch), batch.sequence_starts))
        return logits


class LstmClassifier(nn.Module):
    """A bidirectional LSTM; its last states and a linear layer."""

    def __init__(self, source: nn.Module, width: int, num_labels: int) -> None:
        super().__init__()
        self.source = source
        self.dropout = nn.Dropout(_DROPOUT)
        self.lstm = nn.LSTM(width, LSTM_WIDTH, bidirectional=True)
        self.output = nn.Linear(2 * LSTM_WIDTH, num_labels)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (N, C)."""
        outputs = over_each_sequence(self.lstm, self.dropout(self.source(batch)), batch.sequence_starts)
        logits: Tensor = self.output(self.dropout(where_directions_end(outputs, batch.sequence_starts)))
        return logits


class CnnClassifier(nn.Module):
    """Filters over 3, 4 and 5 tokens, the largest answer of each, and a linear layer (Kim 2014)."""

    def __init__(self, source: nn.Module, width: int, num_labels: int) -> None:
        super().__init__()
        self.source = source
        self.dropout = nn.Dropout(_DROPOUT)
        self.filters = nn.ModuleList(nn.Conv1d(width, FILTERS, size) for size in FILTER_WIDTHS)
        self.output = nn.Linear(len(FILTER_WIDTHS) * FILTERS, num_labels)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (N, C)."""
        vectors, device = self.source(batch), batch.sequence_starts.device
        # Zeros between sequences keep the filters from seeing two of them. A filter's answers begin where only its last
        # token is inside: so a text that is shorter than a filter has answers too.
        gap = max(FILTER_WIDTHS) - 1
        lengths, numbers = batch.sequence_starts.diff(), torch.arange(batch.num_sequences, device=device)
        starts = batch.sequence_starts[:-1] + gap * (numbers + 1)
        places = torch.arange(len(vectors), device=device) + torch.repeat_interleave(gap * (numbers + 1), lengths)
        line = vectors.new_zeros(len(vectors) + gap * (len(numbers) + 1), vectors.shape[1])
        line = line.index_copy(0, places, vectors).T[None]  # (1, W, T with the gaps)
        largest = []
        for size, filters in zip(FILTER_WIDTHS, self.filters, strict=True):
            counts = lengths + size - 1
            shifts = starts - (size - 1) - (counts.cumsum(0) - counts)
            own = torch.arange(int(counts.sum()), device=device) + torch.repeat_interleave(shifts, counts)
            answers = filters(line)[0].T.index_select(0, own).float()
            # Kim's rectifier comes with the smallest value that a maximum can have.
            largest.append(torch.segment_reduce(answers, "max", lengths=counts, initial=0.0))
        logits: Tensor = self.output(self.dropout(torch.cat(largest, 1)))
        return logits


class LstmTagger(nn.Module):
    """A bidirectional LSTM and a linear layer over every token."""

    def __init__(self, source: nn.Module, width: int, num_labels: int) -> None:
        super().__init__()
        self.source = source
        self.dropout = nn.Dropout(_DROPOUT)
        self.lstm = nn.LSTM(width, LSTM_WIDTH, bidirectional=True)
        self.output = nn.Linear(2 * LSTM_WIDTH, num_labels)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (T, C)."""
        outputs = over_each_sequence(self.lstm, self.dropout(self.source(batch)), batch.sequence_starts)
        logits: Tensor = self.output(self.dropout(outputs))
        return logits


def sequence_means(vectors: Tensor, sequence_starts: Tensor) -> Tensor:
    """Return (N, W), the mean of each sequence's (T, W) vectors."""
    lengths = sequence_starts.diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    sums = vectors.new_zeros(len(lengths), vectors.shape[1]).index_add_(0, owner.to(vectors.device), vectors)
    return sums / lengths[:, None].to(vectors.device)


def weighted_sum(layers: Tensor, weights: Sequence[float] | Tensor) -> Tensor:
    """Return (T, H): (T, L, H) vectors of layers weighted by the softmax of ``weights`` (L,)."""
    shares = F.softmax(torch.as_tensor(weights, dtype=layers.dtype, device=layers.device), 0)
    return (layers * shares[:, None]).sum(1)

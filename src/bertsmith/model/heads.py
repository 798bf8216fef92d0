"""What stands on the encoder: the two pre-training heads, and one output layer per task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.config import ModelConfig
from bertsmith.model.bert import Bert, initialize
from bertsmith.model.blocks import activated, normalized
from bertsmith.model.dropout import Dropout
from bertsmith.model.vocabulary_loss import vocabulary_loss


@dataclass(frozen=True)
class PretrainingOutput:
    """Logits of both pre-training tasks.

    Attributes:
        mlm_logits: (M, V), a score for every token of the vocabulary at every masked position.
        nsp_logits: (N, 2); class 0: B is the next sentence, class 1: it is not.
    """

    mlm_logits: Tensor
    nsp_logits: Tensor


@dataclass(frozen=True)
class PretrainingLosses:
    """What a batch's predictions cost, summed: the step divides by the counts of all its micro-batches together.

    Attributes:
        mlm: () float32, summed cross entropy of the M masked tokens (nats).
        nsp: () float32, summed cross entropy of the N pairs (nats).
        mlm_right: () int64, masked tokens whose best guess is right.
        nsp_right: () int64, pairs told right.
    """

    mlm: Tensor
    nsp: Tensor
    mlm_right: Tensor
    nsp_right: Tensor


class PretrainingModel(nn.Module):
    """BERT with its masked-language-model and next-sentence heads (section 3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config)
        self.mlm = MaskedLanguageHead(config)
        self.nsp = nn.Linear(config.hidden_size, 2)
        initialize(self.nsp, config.initializer_range)

    def forward(self, batch: Batch) -> PretrainingOutput:
        """Score the masked positions and the sentence pairs of a batch; without masked positions M is 0."""
        hidden, nsp_logits = self._encode(batch)
        return PretrainingOutput(self.mlm(hidden, self.bert.embeddings.token.weight), nsp_logits)

    def losses(self, batch: Batch) -> PretrainingLosses:
        """Return the losses of a batch that carries its targets, without making all logits of :meth:`forward`."""
        assert batch.masked_labels is not None
        assert batch.labels is not None
        hidden, nsp_logits = self._encode(batch)
        mlm, mlm_right = vocabulary_loss(
            self.mlm.transformed(hidden), self.bert.embeddings.token.weight, self.mlm.bias, batch.masked_labels
        )
        nsp = F.cross_entropy(nsp_logits.float(), batch.labels, reduction="sum")
        return PretrainingLosses(mlm, nsp, mlm_right, (nsp_logits.argmax(1) == batch.labels).sum())

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (M, H) vectors of the masked positions and (N, 2) scores of the pairs."""
        positions = batch.masked_positions
        encoded = self.bert(batch, wanted=batch.token_ids.new_empty(0) if positions is None else positions)
        return encoded.hidden, self.nsp(encoded.pooled)


class MaskedLanguageHead(nn.Module):
    """A transform, then the vocabulary projection, whose weights are the token embeddings'."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.hidden_act
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        initialize(self.transform, config.initializer_range)

    def forward(self, hidden: Tensor, token_embeddings: Tensor) -> Tensor:
        """Return logits (M, V) for the gathered positions ``hidden`` (M, H)."""
        return F.linear(self.transformed(hidden), token_embeddings, self.bias)

    def transformed(self, hidden: Tensor) -> Tensor:
        """Return (M, H), what is multiplied by the token embeddings."""
        return normalized(
            activated(hidden, self.transform, self.activation).to(self.norm.weight.dtype), self.norm
        ).exact


def pooled(bert: Bert, batch: Batch) -> Tensor:
    """Return (N, H), the encoder's vector of each sequence, without the other tokens' last layer."""
    vectors: Tensor = bert(batch, wanted=batch.token_ids.new_empty(0)).pooled
    return vectors


class SequenceClassifier(nn.Module):
    """BERT with a linear layer over the pooled [CLS] vector (section 4.1)."""

    def __init__(self, config: ModelConfig, num_labels: int) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        initialize(self.classifier, config.initializer_range)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (N, C)."""
        logits: Tensor = self.classifier(self.dropout(pooled(self.bert, batch)))
        return logits


class MultipleChoiceModel(nn.Module):
    """BERT with one score for each sequence, to be compared over the endings of a context (section 4.4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, 1)
        initialize(self.classifier, config.initializer_range)

    def forward(self, batch: Batch) -> Tensor:
        """Return scores (N, 1)."""
        scores: Tensor = self.classifier(self.dropout(pooled(self.bert, batch)))
        return scores


class TokenClassifier(nn.Module):
    """BERT with a linear layer over every token's vector (section 5.3)."""

    def __init__(self, config: ModelConfig, num_labels: int) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        initialize(self.classifier, config.initializer_range)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (T, C)."""
        logits: Tensor = self.classifier(self.dropout(self.bert(batch).hidden))
        return logits


class SpanModel(nn.Module):
    """BERT with a start and an end vector, whose products with every token's vector are scores (section 4.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config)
        self.span = nn.Linear(config.hidden_size, 2)
        initialize(self.span, config.initializer_range)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (T, 2) of being the first and the last token of the answer."""
        logits: Tensor = self.span(self.bert(batch).hidden)
        return logits

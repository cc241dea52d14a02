"""What the patches bring into a project: rows that are beside it, a BERT, notes of the truth.

This file is copied into the project's folder with ``field.json`` (settings) and ``field_rows.json``
(a list of rows for each client, the last list for who evaluates centrally); nothing else of the
benchmarks is.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from fedsim.tap import TruthNotes

HERE = Path(__file__).parent
SETTINGS: dict[str, Any] = json.loads((HERE / "field.json").read_text(encoding="utf-8"))
ROWS: list[list[dict[str, Any]]] = json.loads((HERE / "field_rows.json").read_text("utf-8"))
truth = TruthNotes(SETTINGS["truth"])
disable_progress_bars()


def noted(formatting: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    """Return ``formatting`` (rows to texts) so that what it makes is noted as trained on."""

    def noting(rows: Any) -> list[str]:
        texts = formatting(rows)
        truth.note(texts)
        return texts

    return noting


class FederatedDataset:
    """Stands where flwr-datasets' is, which would download: a client's rows, from beside it.

    Whoever asks for rows gets torch and numpy seeded, by client, so that a project without seeds of
    its own does the same with a tap and without.
    """

    def __init__(self, *, dataset: str, partitioners: Mapping[str, Any]) -> None:
        self.dataset, self.partitioners = dataset, partitioners  # as it was asked for

    def load_partition(self, partition_id: int, split: str = "train") -> Dataset:
        """Return the rows of a client, under the names that the project has for its columns."""
        torch.manual_seed(SETTINGS["seed"] + partition_id)
        np.random.seed(SETTINGS["seed"] + partition_id)  # SecAgg+ rounds at random
        rows = ROWS[partition_id]
        if SETTINGS["held_out"]:
            _note(Dataset.from_list(rows))
        return columns(rows)


def _note(whole: Dataset) -> None:
    """Note the rows that train, by the split that all of these projects make."""
    trained = whole.train_test_split(test_size=SETTINGS["held_out"], seed=42)["train"]
    truth.note(list(trained["text"]), list(trained["label"]))


def load_dataset(path: str, split: str | None = None) -> Any:
    """Stand where datasets' own is, which would download: held-out rows for a central test."""
    held = columns(ROWS[-1])
    return held if split else {"test": held}


def columns(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """Return rows as the project's data set has them; where it has images, token ids."""
    if not SETTINGS["image"]:
        return Dataset.from_list([dict(row) for row in rows])
    tokenizer = AutoTokenizer.from_pretrained(SETTINGS["model"])
    read = tokenizer([row["text"] for row in rows], truncation=True, max_length=SETTINGS["length"])
    ids = [(some + [tokenizer.pad_token_id] * SETTINGS["length"]) for some in read["input_ids"]]
    return Dataset.from_dict(
        {
            SETTINGS["image"]: [some[: SETTINGS["length"]] for some in ids],
            "label": [row["label"] for row in rows],
        }
    )


class Net(nn.Module):
    """A BERT where the project has a model of images: token ids (B, T) in, (B, 2) out.

    ``frozen`` embeddings do not train: Opacus has no rule for positions that a batch shares.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bert = AutoModel.from_pretrained(SETTINGS["model"], add_pooling_layer=False)
        self.bert.embeddings.requires_grad_(not SETTINGS["frozen"])
        self.head = nn.Linear(self.bert.config.hidden_size, 2)
        generator = torch.Generator().manual_seed(SETTINGS["seed"])
        with torch.no_grad():
            self.head.weight.copy_(0.02 * torch.randn(self.head.weight.shape, generator=generator))
            self.head.bias.zero_()

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of padded texts."""
        mask = (ids != self.bert.config.pad_token_id).long()
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        logits: Tensor = self.head(states[:, 0])
        return logits

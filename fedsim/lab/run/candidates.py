"""What an attack on membership is asked about: texts of the client among others, by lot.

The lab holds which is which. Texts that nobody trained on are of the clients' own data, set aside
before it was divided (``data.reserve``), as chance would be wrong of any others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from attacks.membership.texts import twins
from clients.data import Corpus
from clients.formats import read_file
from clients.holdings import cached_corpus, encode
from clients.values import meant
from fedsim.errors import BadInput
from fedsim.lab.config import Config
from fedsim.lab.run.settings import data_settings
from fedsim.lab.store.attempts import Asked
from fedsim.messages import Knowledge, Texts
from fedsim.models import ModelAdapter
from fedsim.rng import stream
from fedsim.vault.reader import Truth

MEMBERS = 200  # of a client, at most
TWINS = 50  # members that are asked about with a token changed, too
OTHERS = 100  # texts of other clients of the round
OWN, MOST_OWN, PUBLIC = 0.2, 0.3, 0.5  # of what was set aside; the rest are outsiders
FEWEST = 120  # texts set aside


@dataclass(frozen=True)
class Reserve:
    """Texts like the clients' that none of them holds.

    Attributes:
        own: which the attacker trains on, for its control.
        public: which an attack is granted.
        outsiders: which it is asked about.
    """

    own: Texts
    public: Texts
    outsiders: Texts

    @classmethod
    def of(cls, texts: Texts, seed: int, examples: int = 0) -> "Reserve":
        """Divide ``texts``, none twice.

        Args:
            texts: that no client holds.
            seed: of the lot.
            examples: of a client: as many are the attacker's own, where there are enough.

        Raises:
            BadInput: there are too few.
        """
        texts = texts.take({tokens: row for row, tokens in enumerate(texts.sequences)}.values())
        if len(texts) < FEWEST:
            raise BadInput(
                f"data.reserve: an attack that is asked about candidates wants {FEWEST} texts or "
                f"more that no client holds, got {len(texts)}, which is at most a third of all "
                "different ones"
            )
        order = torch.randperm(len(texts), generator=stream(seed, "reserve")).tolist()
        own = min(max(int(OWN * len(order)), examples), int(MOST_OWN * len(order)))
        public = own + int(PUBLIC * len(order))
        return cls(
            own=texts.take(order[:own]),
            public=texts.take(order[own:public]),
            outsiders=texts.take(order[public:]),
        )


def reserve_of(
    adapter: ModelAdapter, corpus: Corpus, max_length: int, seed: int, examples: int
) -> Reserve:
    """Return what was set aside of a corpus, as the clients' texts are encoded."""
    rows = corpus.reserved
    assert rows is not None
    labels = rows["label"][:] if "label" in rows.column_names else [None] * len(rows)
    made = encode(adapter, rows["text"][:], labels, max_length, chat=corpus.chat)
    return Reserve.of(Texts(sequences=made.sequences, labels=made.labels), seed, examples)


def public_reserve(
    path: Path | None, adapter: ModelAdapter, config: Config | None, max_length: int, seed: int
) -> Reserve:
    """Return texts that no client of captures trained on: a file's, or what their run set aside.

    Args:
        path: a file of texts like the clients', with a column ``text``, and ``label`` where there
            are labels.
        adapter: its tokenizer reads them.
        config: of the run whose captures are attacked; None: it is none of ours.
        max_length: tokens that a text is cut to.
        seed: divides them.

    Raises:
        BadInput: there is neither, or the file is no such one.
    """
    if path is None:
        data = None if config is None else data_settings(config)
        if config is None or data is None or not data.reserve:
            raise BadInput(
                "--public: an attack that is asked about candidates wants a file of texts like the "
                "clients' that none of them trained on (csv, jsonl, ...: text, and label), as "
                "their run set none aside (data.reserve)"
            )
        corpus, examples = cached_corpus(data, config.seed), config.training.batch_size
        return reserve_of(adapter, corpus, max_length, config.seed, examples)
    frame = read_file(path, key="--public")
    if "text" not in frame.columns:
        raise BadInput(
            f"--public: {str(path)!r} needs a column text, got {', '.join(map(str, frame.columns))}"
        )
    named = frame.drop_duplicates("text")
    texts = [str(text) for text in named["text"]]
    labels: list[int | None] = [None] * len(texts)
    if adapter.spec.task == "classification":
        if "label" not in named.columns:
            raise BadInput(f"--public: {str(path)!r} needs a column label, as clients classify")
        labels = [int(label) for label in meant(list(named["label"]))]
    made = encode(adapter, texts, labels, max_length)
    return Reserve.of(Texts(sequences=made.sequences, labels=made.labels), seed)


@dataclass(frozen=True)
class Question:
    """Candidates in the order that an attack is shown them, and what each is."""

    candidates: Texts
    asked: tuple[Asked, ...]

    def granted(self, knowledge: Knowledge, public: Texts) -> Knowledge:
        """Return ``knowledge`` with the candidates and the public texts."""
        return replace(knowledge, candidates=self.candidates, public=public)


def question(
    adapter: ModelAdapter,
    members: Truth | Texts,
    others: Texts,
    reserve: Reserve,
    generator: torch.Generator,
) -> Question:
    """Return a question about some of ``members``, outsiders, twins of members, and ``others``.

    Args:
        adapter: whose special tokens no twin changes.
        members: what the update was trained on.
        others: what is to look like no member's, beside the outsiders.
        reserve: of the run.
        generator: draws who is asked about, the twins and the order.
    """
    there = Texts(sequences=members.sequences, labels=members.labels)
    known = {tokens: row for row, tokens in enumerate(there.sequences)}  # each is asked about once
    inside = [[*known.values()][place] for place in _some(len(known), MEMBERS, generator)]
    beside = [row for row in range(len(others)) if others.sequences[row] not in known]
    beside = [beside[place] for place in _some(len(beside), OTHERS, generator)]
    near = twins(adapter, there.take(inside[:TWINS]), generator)
    changed = [place for place, tokens in enumerate(near.sequences) if tokens not in known]
    outside = [row for row, t in enumerate(reserve.outsiders.sequences) if t not in known]
    texts = there.take(inside).and_(reserve.outsiders.take(outside))
    texts = texts.and_(others.take(beside)).and_(near.take(changed))
    asked = [
        *(Asked(kind="member", row=row) for row in inside),
        *(Asked(kind="outsider", row=row) for row in outside),
        *(Asked(kind="other", row=row) for row in beside),
        *(Asked(kind="twin", row=inside[place]) for place in changed),
    ]
    order = torch.randperm(len(asked), generator=generator).tolist()
    return Question(candidates=texts.take(order), asked=tuple(asked[row] for row in order))


def _some(count: int, most: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(count, generator=generator).tolist()[:most]


def joined(truths: Sequence[Truth]) -> Texts:
    """Return the texts of several clients."""
    return Texts(
        sequences=tuple(tokens for truth in truths for tokens in truth.sequences),
        labels=tuple(label for truth in truths for label in truth.labels),
    )

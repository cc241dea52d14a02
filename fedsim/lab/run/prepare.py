"""From a config to an experiment: every check against the world, before anything long starts."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from clients import DataSettings
from clients.chat import chat_note
from clients.data import Corpus
from clients.holdings import (
    SEEDS,
    Held,
    cached_adapter,
    cached_corpus,
    cached_shards,
    check_examples,
    encode,
)
from defenses import Defense, defense_table
from defenses.base import Setting
from fedsim.errors import BadInput
from fedsim.lab.config import Config
from fedsim.lab.run.attacking import in_force
from fedsim.lab.run.candidates import Reserve, reserve_of
from fedsim.lab.run.checks import (
    check_engine,
    check_forward,
    check_labels,
    check_learned,
    check_length,
    check_reach,
    check_together,
    device,
)
from fedsim.lab.run.controls import OWN_TEXTS, own_sequences
from fedsim.lab.run.planned import PlannedAttack, plan
from fedsim.lab.run.settings import data_settings, model_spec, training_settings
from fedsim.lab.run.trackers import check_trackers
from fedsim.models import ModelAdapter, ModelSpec
from fedsim.plugins import make
from fedsim.training import Examples, TrainingSettings
from fedsim.types import Tokens
from fedsim.vault.keys import own_key
from server.strategies import make_strategy

POOL = 256  # held-out sequences kept for the no-gradient control


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A config that was checked against the world: model, data and plugins are there and fit."""

    config: Config
    adapter: ModelAdapter
    corpus: Corpus
    planned: Sequence[PlannedAttack]
    defenses: Sequence[Defense]
    training: TrainingSettings
    held_out: Examples
    pool: tuple[Tokens, ...]
    reserve: Reserve | None = None  # where an attack is asked about candidates

    @property
    def data(self) -> DataSettings:
        """The [data] table, as clients take it."""
        return data_settings(self.config)

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the weights and the texts that were read."""
        chat = chat_note(self.adapter.tokenizer) if self.corpus.chat else ""
        aside = ""
        if self.reserve is not None:
            count = sum(map(len, vars(self.reserve).values()))
            aside = (
                f"{count} texts are set aside for membership (data.reserve); no client has them."
            )
        return [*self.adapter.notes, *filter(None, (self.corpus.note, chat, aside))]


def prepare(config: Config) -> Experiment:
    """Check all that can go wrong before anything long starts.

    What is wrong with the words of a config is said before what is wrong with the world, and what
    is quick to find before what is slow: one line is all that a user gets to see.

    Raises:
        BadInput: one line that names the key, what came and what is allowed.
    """
    check_trackers(config.tracker)
    planned = plan(config.attack)
    defenses = named_defenses(config)
    check_strategy(config)
    data_settings(config)  # its words
    own_key()  # the vault's
    # The model before the data, since its errors are the likeliest. How many labels there are is
    # not known yet: any number shows whether the model is there.
    configured(config, defenses, labels=2)
    corpus = divided_corpus(config)
    check_learned(planned, corpus)
    adapter, training = fitted_model(config, defenses, corpus)
    planned = fitted_attacks(config, planned, adapter)
    # Builds the model: what cannot be loaded, frozen, adapted or run is said now. The attacks came
    # first, for they need its shapes alone.
    adapter.trainable()
    check_forward(adapter)
    check_engine(config)
    # Last, for a defense asks how many examples each client holds, and that takes their tokens.
    defenses = fitted_defenses(config, defenses, adapter, training)
    held_out = held_out_examples(
        adapter.spec, data_settings(config), config.data.max_length, config.seed
    )
    reserve = None
    if any(attack.asks for attack in planned):
        reserve = reserve_of(
            adapter, corpus, config.data.max_length, config.seed, config.training.batch_size
        )
    return Experiment(
        config=config,
        adapter=adapter,
        corpus=corpus,
        planned=planned,
        defenses=defenses,
        training=training,
        held_out=held_out,
        reserve=reserve,
        pool=held_out.sequences[:POOL] or own_sequences(adapter, [12] * len(OWN_TEXTS)),
    )


def named_defenses(config: Config) -> list[Defense]:
    """Return the defenses of a config, their parameters checked."""
    known = defense_table()
    return [make("defense", section.name, known, section.parameters) for section in config.defense]


def check_strategy(config: Config) -> None:
    """Raise BadInput when there is no such strategy, or it does not take its options."""
    federation = config.federation
    make_strategy(federation.strategy, federation.strategy_options, federation.clients_per_round)


def configured(
    config: Config, defenses: Sequence[Defense], labels: int, response: str = ""
) -> tuple[ModelAdapter, TrainingSettings]:
    """Return the model and the training settings of the run, as its defenses would have them."""
    spec, training = model_spec(config, labels, response), training_settings(config)
    for defense in defenses:
        spec, training = defense.configure(spec, training)
    return cached_adapter(spec), training


def divided_corpus(config: Config) -> Corpus:
    """Return the data, once it is known to give every client a row."""
    data = data_settings(config)
    corpus = cached_corpus(data, config.seed)
    cached_shards(data, config.federation.clients, config.seed)
    return corpus


def fitted_model(
    config: Config, defenses: Sequence[Defense], corpus: Corpus
) -> tuple[ModelAdapter, TrainingSettings]:
    """Return the model for the labels that the data has, on its device, and how it is trained."""
    check_labels(config, corpus)
    response = corpus.response if config.data.response_only else ""
    if config.data.response_only and (config.model.task != "causal-lm" or not response):
        raise BadInput(
            "data.response_only: wanted model.task causal-lm and a template in which a line stands "
            f"before the response (alpaca, a file), got {config.model.task!r} and "
            f"{config.data.template or 'none'!r}"
        )
    adapter, training = configured(config, defenses, len(corpus.label_names) or 2, response)
    adapter = adapter.to(device(config.device))
    check_length(config, adapter)
    return adapter, training


def fitted_attacks(
    config: Config, planned: Sequence[PlannedAttack], adapter: ModelAdapter
) -> list[PlannedAttack]:
    """Return the attacks, once each is known to fit the model, to be run, and to be granted."""
    fitted = list(planned)
    if config.model.task != "classification":  # a paper's labels, where there are any
        fitted = [
            replace(attack, knowledge=tuple(n for n in attack.knowledge if n != "labels"))
            if section.knowledge == "paper"
            else attack
            for attack, section in zip(planned, config.attack, strict=True)
        ]
    for attack in fitted:
        attack.attack.check(adapter)
        check_reach(attack, config)
        if "labels" in attack.knowledge and config.model.task != "classification":
            raise BadInput(
                f"attack.knowledge: only classification has labels, got {config.model.task!r}"
            )
    return fitted


def fitted_defenses(
    config: Config,
    defenses: Sequence[Defense],
    adapter: ModelAdapter,
    training: TrainingSettings,
) -> list[Defense]:
    """Return the defenses, settled: once each is known to fit the run, and all to go together."""
    federation = config.federation
    held = Held(  # counted as each client will count them itself
        adapter.spec, data_settings(config), config.data.max_length, federation.clients, config.seed
    )
    check_examples(held.model, held.data, held.max_length, held.clients, held.seed)
    setting = Setting(
        adapter=adapter,
        training=training,
        batch_size=config.training.batch_size,
        held=held,
        clients_per_round=federation.clients_per_round,
        rounds=federation.rounds,
        defenses=tuple(defenses),
    )
    for defense in defenses:
        defense.check(setting)
    check_together(config, defenses)
    settled = [defense.settle(setting) for defense in defenses]
    in_force(settled)  # what attacks will be told of them can be told
    return settled


@functools.lru_cache(maxsize=SEEDS)  # cells of a sweep share them
def held_out_examples(spec: ModelSpec, data: DataSettings, max_length: int, seed: int) -> Examples:
    """Return what the utility is measured on, as token ids."""
    corpus = cached_corpus(data, seed)
    rows = corpus.held_out
    labels = rows["label"][:] if "label" in rows.column_names else [None] * len(rows)
    return encode(cached_adapter(spec), rows["text"][:], labels, max_length, chat=corpus.chat)

"""What is the same for all clients of a round, and texts' gradients there, made once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from attacks.matching import layer_of
from attacks.membership.alignment import statistics
from attacks.membership.features import Site, gradients
from fedsim.messages import Texts
from fedsim.models import ModelAdapter
from fedsim.training import TrainingSettings
from fedsim.types import Parameters

Key = tuple[object, object]  # a text's tokens and label
KEPT = 2**32  # bytes of gradients that are kept for a round's other clients


@dataclass(frozen=True)
class View:
    """The weights that were sent, how clients train, which maps are looked at."""

    model: ModelAdapter
    weights: Parameters
    training: TrainingSettings
    sites: Sequence[Site]  # looked at where the round began
    midway: Sequence[Site] = ()  # half way of each update: LoRA's A, no gradient of which is there
    store: dict[Key, dict[str, Tensor]] = field(
        default_factory=dict
    )  # of texts at the weights sent

    @property
    def adam(self) -> bool:
        """Whether local steps are Adam's."""
        return self.training.algorithm == "fedavg" and self.training.optimizer == "adamw"

    def target(self, update: Parameters, site: Site) -> Tensor:
        """Return what members' gradients align with."""
        sign = -1.0 if self.training.algorithm == "fedavg" else 1.0
        return sign * site.drawn(update[site.name].float())

    def half_way(self, update: Parameters) -> Parameters:
        """Return the weights between those sent and those trained."""
        if self.training.algorithm == "fedsgd":
            return self.weights
        return {name: self.weights[name] + update[name] / 2 for name in self.weights}

    def statistics(
        self,
        update: Parameters,
        texts: Texts,
        known: Sequence[int],
        tell: Callable[[int], None],
    ) -> tuple[Tensor, Tensor]:
        """Return each text's statistic at each site, those midway last, and how unlike it is there.

        Both (N, S), float64; see :func:`attacks.membership.alignment.statistics`.

        Args:
            update: of a client, or of the attacker.
            texts: N of them.
            known: rows that nobody trained on, whose spread counts.
            tell: is told how many texts' gradients were taken.
        """
        size = self.training.mini_batch_size if self.adam else None
        made = self._sent(texts, tell)
        if self.midway:
            at = self.half_way(update)
            made += gradients(self.model, at, texts, self.midway, summed=self.adam, tell=tell)
        target = [self.target(update, site) for site in (*self.sites, *self.midway)]
        return statistics(made, target, known, batch_size=size)

    def _sent(self, texts: Texts, tell: Callable[[int], None]) -> list[Tensor]:
        """Return the gradients of ``texts`` at the weights sent, a site each.

        The first ones are taken together, whoever asks for more later has them one by one: so they
        hang on no other text, and it does not matter which were kept.
        """
        keys: list[Key] = list(zip(texts.sequences, texts.labels, strict=True))
        rows = {key: row for row, key in enumerate(keys) if key not in self.store}
        made = dict(self.store)
        if rows:
            parts = gradients(
                self.model, self.weights, texts.take(rows.values()), self.sites,
                summed=self.adam, apart=bool(self.store), tell=tell,
            )  # fmt: skip
            names = [site.name for site in self.sites]
            for place, key in enumerate(rows):
                made[key] = dict(zip(names, (part[place] for part in parts), strict=True))
        room = KEPT // max(1, 4 * sum(part.numel() for part in made[keys[0]].values()))
        self.store.update({key: made[key] for key in [*rows][: max(0, room - len(self.store))]})
        return [torch.stack([made[key][site.name] for key in keys]) for site in self.sites]

    def narrowed(self, first: int, *, midway: bool) -> "View":
        """Return a view of the blocks from ``first`` on alone."""
        sites = [site for site in self.sites if self.layer(site) >= first]
        names = {site.name for site in sites}
        store = {
            key: {name: part for name, part in parts.items() if name in names}
            for key, parts in self.store.items()
        }
        halves = [site for site in self.midway if midway and self.layer(site) >= first]
        return replace(self, sites=sites, midway=halves, store=store)

    def layer(self, site: Site) -> int:
        """Return the block that a site is in."""
        layer = layer_of(self.model, site.name)
        assert layer is not None  # sites are in blocks
        return layer

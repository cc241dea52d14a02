"""Whether texts were trained on, by how they align with the update.

Source:      ours. Whitened alignment of an update with texts' own gradients, by maps that an update
             of the attacker's own shows to tell, as Wu et al., "Learning to Invert", UAI 2023,
             arXiv:2210.10880, learn from clients that they simulate; exact residuals at a
             classifier's last block.
Assumes:     candidates, and public texts like the client's that nobody trained on; how the client
             trains, by the protocol. Neither its order of texts nor its dropout.
Recovers:    of each candidate whether it was trained on, with a threshold of its own: a score in
             deviations of public texts' scores.
Deviations:  none, as there is no paper.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from attacks.base import Attack, Notes
from attacks.membership.rehearsal import Rehearsal, exact_span, rehearse, standardised, telling
from attacks.membership.texts import fingerprint
from fedsim.errors import UnsupportedObservation
from fedsim.messages import Observation, Reconstruction, Texts

FEWEST = 60  # public texts: fewer tell neither how gradients spread nor what is chance
UNLIKE = 1e-4  # chance, at which public texts are no longer taken for texts like the candidates
CLEAN = 0.1  # of the gap of the attacker's own span: below it noise was added, and residuals err
_LAST: dict[str, Rehearsal] = {}  # of the round at hand, by all that it was made of


@dataclass(frozen=True, kw_only=True)
class Membership(Attack):
    """Score candidates by a discriminant that was learned from an update of the attacker's own."""

    threshold: float = 2.33  # deviations of public texts' scores; 1 % of a normal are above

    kind: ClassVar = "membership"
    needs: ClassVar[tuple[str, ...]] = ("candidates", "public")

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(f"threshold must be > 0, got {self.threshold}")

    @override
    def _run(self, observation: Observation, generator: torch.Generator) -> Reconstruction:
        asked, public = observation.knowledge.candidates, observation.knowledge.public
        if asked is None or public is None:
            raise UnsupportedObservation(
                "membership is asked about candidates: grant knowledge.candidates and "
                "knowledge.public"
            )
        if len(public) < FEWEST:
            raise UnsupportedObservation(
                f"membership needs at least {FEWEST} public texts, got {len(public)}"
            )
        if not any(tensor.any() for tensor in observation.update.tensors.values()):
            raise UnsupportedObservation("membership needs weights that moved, got zeros alone")
        rehearsal = self._rehearsal(observation, public)
        notes: Notes = {"public": len(public), "rehearsed_auc": rehearsal.separated}
        exact = self._exact(rehearsal, observation, asked, notes)
        scores, members = exact or self._aligned(rehearsal, observation, asked, notes)
        return Reconstruction(
            scores=tuple(scores.tolist()), members=tuple(members.tolist()), diagnostics=notes
        )

    def _rehearsal(self, observation: Observation, public: Texts) -> Rehearsal:
        """Return the round's; it hangs on nothing else, so that clients of a round share it."""
        sent, update = observation.broadcast, observation.update
        told = (fingerprint(sent.parameters, public), update.num_examples, sorted(update.tensors))
        key = repr((*told, sorted(sent.config.items()), observation.model.spec))
        if key not in _LAST or _LAST[key].view.model is not observation.model:
            _LAST.clear()
            _LAST[key] = rehearse(observation, public)
        return _LAST[key]

    def _aligned(
        self, rehearsal: Rehearsal, observation: Observation, asked: Texts, notes: Notes
    ) -> tuple[Tensor, Tensor]:
        """Return deviations above public texts' scores, and which are above the threshold."""
        public, parts = rehearsal.public, rehearsal.parts
        made, unlike = rehearsal.view.statistics(
            observation.update.tensors, public.and_(asked), parts.known, telling("the client")
        )
        scores = (standardised(made, parts.null) @ rehearsal.weights)[:, None]
        scores = standardised(scores, parts.null)[:, 0]
        first = min(rehearsal.view.layer(site) for site in rehearsal.view.sites)
        notes |= {"exact": False, "sites": made.shape[1], "first_block": first}
        from scipy.stats import ks_2samp  # here: it takes half a second

        away = unlike.mean(dim=1)
        same = ks_2samp(away[list(parts.null)].numpy(), away[len(public) :].numpy()).pvalue
        notes["unlike"] = bool(same < UNLIKE)
        return scores[len(public) :], scores[len(public) :] > self.threshold

    def _exact(
        self, rehearsal: Rehearsal, observation: Observation, asked: Texts, notes: Notes
    ) -> tuple[Tensor, Tensor] | None:
        """Return minus the logarithm of residuals, and which are within; None where none tells."""
        view, update = rehearsal.view, observation.update
        if rehearsal.limit is None:
            return None
        span = exact_span(view, update.tensors, update.num_examples)
        if span is None or span.gap < CLEAN * rehearsal.gap:
            return None
        far = span.residuals(view.model, view.half_way(update.tensors), asked)
        notes |= {"exact": True, "limit": rehearsal.limit}
        return -far.clamp_min(1e-12).log10(), far < rehearsal.limit

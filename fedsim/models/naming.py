"""Whose weights are these: a project's arrays, by the names that the model has for them.

Projects send what their own code calls their weights: peft leaves out ``.default``, a wrapper puts
``model.`` in front, a compiled module ``_orig_mod.``, and a NumPyClient sends a list.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

Shape = tuple[int, ...]
DROPPED = frozenset({"_orig_mod", "module", "modules_to_save", "base_layer", "default"})
"""Parts of names that wrappers put in: torch.compile's, DataParallel's, peft's."""
ADAPTER = re.compile(r"(\.lora_[a-zA-Z_]+|\.modules_to_save)\.(?!weight\b|bias\b)\w+")
"""What peft calls an adapter's part, and the adapter's own name behind it."""
MAGNITUDE = re.compile(r"(?<=\.lora_magnitude_vector)\.weight$")  # of DoRA, which peft leaves out
LIKELY = 8  # prefixes that are tried, those first that most names speak for
PEFT = ("base_model", "model")  # what peft's names begin with
SPARE = ".original_module."  # where peft keeps the weights that it does not train


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Which array is which weight of a model.

    Attributes:
        ours: the model's name of each array that is one of its weights, by the name sent.
        left: the names sent that are none.
        lacking: the model's names of weights that train and were not sent.
        tied: the names sent that are copies in a model of this kind, each by what it is a copy of.
        how: what was done to the names, in words; "": nothing.
    """

    ours: Mapping[str, str]
    left: tuple[str, ...]
    lacking: tuple[str, ...]
    tied: Mapping[str, str]
    how: str

    def renamed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``values``, which stand under names sent, under the model's."""
        return {self.ours[name]: value for name, value in values.items() if name in self.ours}


def find_naming(
    module: nn.Module, sent: Mapping[str, Shape], moved: Collection[str] = ()
) -> Naming:
    """Return the naming that gives most of ``module``'s weights an array of its shape.

    Args:
        module: a model, within peft's LoRA or not.
        sent: the shapes of a project's arrays, by name, in the order in which they were sent.
        moved: the names of those that training moved: of two models that are sent, its own.
    """
    slots = {name: tuple(slot.shape) for name, slot in _slots(module)}
    ways = [({name: name for name in sent if slots.get(name) == sent[name]}, "")]
    if sent and all(name.isdecimal() for name in sent):
        places = sorted(sent, key=int)
        ways += [(ours, "by their place") for ours in _by_place(module, slots, places, sent)]
    else:
        ways.append(_by_name(slots, sent, moved))
    ours, how = max(ways, key=lambda way: (len(way[0].keys() & set(moved)), len(way[0])))
    ours, tied = _once(ours, _same(module))
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    known = set(ours.values())
    return Naming(
        ours=ours,
        left=tuple(name for name in sent if name not in ours and not _is_known(name, tied)),
        tied=tied,
        lacking=tuple(name for name in trained if name not in known),
        how=how,
    )


def _slots(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the parameters, tied ones under each name, and what else the model's state has."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if SPARE not in name:
            yield name, parameter
    yield from module.named_buffers()


def _same(module: nn.Module) -> dict[str, str]:
    """Return the first name of each parameter, by its others."""
    first = {parameter: name for name, parameter in module.named_parameters()}
    return {
        name: first[parameter]
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if first[parameter] != name
    }


def _once(
    ours: Mapping[str, str], same: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the weights by the names sent, one each, and the names of their copies."""
    first = {slot: name for name, slot in ours.items() if slot not in same}
    kept, tied = {name: slot for slot, name in first.items()}, {}
    for name, slot in ours.items():
        if slot in same and same[slot] in first:
            tied[name] = first[same[slot]]
        elif slot in same:
            kept[name], first[same[slot]] = same[slot], name
    return {name: kept[name] for name in ours if name in kept}, tied


def _is_known(name: str, tied: Mapping[str, str]) -> bool:
    """Return whether an array that is no weight is a copy, or what peft keeps and does not use."""
    return name in tied or SPARE in name


def _by_name(
    slots: Mapping[str, Shape], sent: Mapping[str, Shape], moved: Collection[str]
) -> tuple[dict[str, str], str]:
    """Match names without what wrappers put in; a prefix may stand before either's."""
    theirs, ours = _plain(sent), _plain(slots)
    alike: dict[tuple[str, Shape], list[str]] = defaultdict(list)
    for plain, name in ours.items():
        alike[plain.rsplit(".", 1)[-1], slots[name]].append(plain)
    votes = Counter[tuple[str, str]]()
    for plain, name in theirs.items():
        ends = {_prefixes(plain, other) for other in alike[plain.rsplit(".", 1)[-1], sent[name]]}
        shortest = min((len(first) for first, _ in ends), default=0)
        best = [pair for pair in ends if len(pair[0]) == shortest]
        votes.update(best if len(best) == 1 else ())
    if not votes:
        return {}, ""

    def fitting(first: str, instead: str) -> dict[str, str]:
        return {
            name: ours[new]
            for plain, name in theirs.items()
            if plain.startswith(first)
            and (new := instead + plain.removeprefix(first)) in ours
            and slots[ours[new]] == sent[name]
        }

    def worth(pair: tuple[str, str]) -> tuple[int, int]:
        names = fitting(*pair).keys()
        return len(names & set(moved)), len(names)

    first, instead = max([pair for pair, _ in votes.most_common(LIKELY)], key=worth)
    found = fitting(first, instead)
    how = f"without {first!r} before them" if first else ""
    how += f"{' and ' if how else ''}with {instead!r} before them" if instead else ""
    same = all(name == new for name, new in found.items())
    return found, how or ("" if same else "without what wrappers put in")


def _plain(names: Mapping[str, Any]) -> dict[str, str]:
    """Return names by what is left of them without wrappers' parts; none that two share."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if SPARE in name:
            continue
        plain = MAGNITUDE.sub("", ADAPTER.sub(r"\1", name))
        parts = [part for part in plain.split(".") if part not in DROPPED]
        while tuple(parts[:2]) == PEFT:
            parts = parts[2:]
        found[".".join(parts)].append(name)
    return {plain: some[0] for plain, some in found.items() if len(some) == 1}


def _prefixes(one: str, other: str) -> tuple[str, str]:
    """Return what stands before the longest end, of whole parts, that two names share."""
    first, second = one.split("."), other.split(".")
    while first and second and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    return "".join(f"{part}." for part in first), "".join(f"{part}." for part in second)


def _by_place(
    module: nn.Module,
    slots: Mapping[str, Shape],
    places: Sequence[str],
    sent: Mapping[str, Shape],
) -> Iterator[dict[str, str]]:
    """Yield what a list of arrays is, in each order that a model's weights are listed in."""
    whole: Any = module
    body = whole.get_base_model() if hasattr(whole, "peft_config") else whole
    prefix = f"{getattr(body, 'base_model_prefix', '')}."
    own = "base_model.model." if hasattr(whole, "peft_config") else ""
    state = [name for name in module.state_dict() if SPARE not in name]
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    orders = [
        state,
        [name for name, _ in module.named_parameters() if SPARE not in name],
        [name for name in state if name in trained],
    ]
    shapes = {**{name: tuple(slot.shape) for name, slot in module.state_dict().items()}, **slots}
    got = [sent[place] for place in places]
    for order in orders:  # all of it, or else what is the body's: the rest is a head of their own
        if [shapes[name] for name in order] == got:
            yield dict(zip(places, order, strict=True))
        rest = [name for name in order if name.startswith(own + prefix)]
        wanted = [shapes[name] for name in rest]
        runs = [at for at in range(len(got)) if wanted and got[at : at + len(wanted)] == wanted]
        if len(runs) == 1:
            yield dict(zip(places[runs[0] :], rest, strict=False))

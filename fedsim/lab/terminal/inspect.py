"""What was captured, on the terminal: a line a fact."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedsim.printing import printable


def inspection_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an inspection says, line by line."""
    yield from (printable(line) for line in _lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    clients, rounds = found["clients"], found["rounds"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["kind"].items())
    yield f"Captured: {_count(len(rounds), 'round')} ({_few(rounds)}) of {_clients(clients)}"
    if found["masked"]:
        yield (
            f"  {found['masked']} of {sum(clients.values())} are masked by secure aggregation: "
            "of a round only the sum is in clear"
        )
    if not found["looked"]:
        return
    low, high = found["examples"]
    stated = "no number of examples is stated" if not high else f"{_range(low, high)} stated"
    yield f"  {found['looked']} looked at: {kinds}; {stated}"
    yield f"Model: {_model(found)}"
    settings = {k: v for k, v in found["settings"].items() if k in SHOWN}
    told = ", ".join(f"{key} {value}" for key, value in settings.items()) or "nothing"
    yield f"Training, as the server told its clients: {told}"
    yield f"What shows: {_shows(found)}"
    for word, count in found["hidden"].items():
        yield f"What hides: {word} ({count} of {found['looked']})"
    unseen = "" if "dropout" in settings else "whether dropout was on (DAGER reads nothing then), "
    yield f"What cannot be seen: {unseen}{'and ' * bool(unseen)}what else the clients' code does"
    yield from found["notes"]
    yield f"Next: {_next(found)}"


UNSAID = "<the project's>"
SHOWN = ("learning_rate", "local_epochs", "max_steps", "mini_batch_size", "optimizer", "dropout")


def _model(found: Mapping[str, Any]) -> str:
    if found["model"]:
        return f"{found['model'].get('name')}, as the captures say; {found['looks']}"
    kind = f"named as those of {found['family']}" if found["family"] else "under names of its own"
    return f"not said; {found['arrays']} arrays, {kind}: {found['looks']}"


def _shows(found: Mapping[str, Any]) -> str:
    rank, width = found["rank"], found["width"]
    if found["adam"] == found["looked"]:
        return "no inputs: steps of Adam are no sums of gradients"
    if found["broken"] == found["looked"]:
        return "nothing: there is no number that a gradient could have"
    if not rank and found["lacking"] == found["looked"]:
        return "no inputs of block 0, as no array that reads them moved"
    if not rank:
        return "no map that reads block 0's inputs was found by name; an attack may find it"
    clear = not (found["filled"] or found["crowded"] or found["vague"] or found["hidden"])
    what = "inputs" if clear or found["crowded"] else "dimensions of the inputs"
    text = f"{_range(min(rank), max(rank))} {what} of block 0 stand out, of {width} that can"
    if found["filled"]:
        text += (
            f"; in {found['filled']} of {len(rank)} all dimensions are filled, by inputs or what "
            "was added to them, and dager may tell none apart"
        )
    if found["crowded"]:
        text += (
            f"; in {found['crowded']} of {len(rank)} they are more than the {found['most']} that "
            "can be told from noise, and dager may tell none apart"
        )
    if found["vague"]:
        text += f"; in {found['vague']} of {len(rank)} nothing shows their end, and more may hide"
    if clear:
        text += (
            f"; dager needs at most {found['most']}, and in the blocks that follow, where each "
            "place counts, too"
        )
    if found["steps"] > 1:
        text += f"; a client took {found['steps']} steps, and of several dager reads less surely"
    return text


def _next(found: Mapping[str, Any]) -> str:
    words = ["fedsim attack", found["path"], "--attack dager"]
    if found["nodes"] or not found["model"]:  # else an app of fedsim's own, which says all of it
        words += [] if "name" in found["model"] else ["model.name=<hub id or directory>"]
        if "LoRA" in found["looks"] or "DoRA" in found["looks"]:
            words.append(f"model.lora_alpha={UNSAID}")
        known = {"training.optimizer": "adamw"} if found["adam"] else {}
        words += [f"{key}={known.get(key, UNSAID)}" for key in found["unsaid"]]
        words.append("--truth <what the clients trained on>")
    return " ".join(words)


def _clients(clients: Mapping[int, int]) -> str:
    return f"{_count(len(clients), 'client')} ({_few(list(clients))})"


def _few(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:6]))
    return shown if len(numbers) <= 6 else f"{shown}, ..., {numbers[-1]}"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

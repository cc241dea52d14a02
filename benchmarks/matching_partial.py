"""Partial gradients: which layer, which module is enough for LAMP (arXiv:2406.00999).

MiniLM's six trained layers, CoLA, B = 1, the papers' knowledge; every module of every layer alone,
whole layers, the whole encoder, everything; p also mixed with o, as the paper's code had it. Draws
results/matching_partial.svg, a heat map of ROUGE-1. Cells can be run one by one.
"""

from pathlib import Path
from typing import Any

from matching_common import (
    Cells,
    attacked,
    begin,
    minilm,
    observation,
    prior_note,
    texts,
    unrelated,
    update_of,
)

from attacks import Lamp, Partial
from fedsim.files import write_text

UPDATES = 5
COLUMNS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in "qkvofp"},
    "o+p": ("o", "p"),
    "layer": (),
}


def main() -> None:
    """Measure what is not there yet, then draw."""
    options, cells = begin("matching_partial", "a single layer or matrix still leaks")
    who = minilm(options.layers)
    pool = texts(who, "cola")
    plans: dict[str, Lamp] = {"all": Lamp(), "encoder": Partial()}
    plans |= {
        f"{layer} {name}": Partial(layers=(layer,), modules=modules)
        for layer in range(options.layers)
        for name, modules in COLUMNS.items()
    }
    for name, attack in plans.items():

        def measure(index: int, attack: Lamp = attack) -> dict[str, Any]:
            examples = pool.draw(1, 1, index)
            update = update_of(who, examples, dropout=False, seed=index)
            row = attacked(who, observation(who, examples, update), examples, attack, index)
            return {**row, "unrelated": unrelated(who, examples, pool.draw(1, 2, index))}

        settings = {"layers": options.layers, "attack": repr(attack), **prior_note(options)}
        cells.fill(name, settings, UPDATES, measure)
    draw(cells, options.layers, options.out.with_suffix(".svg"))


def draw(cells: Cells, layers: int, path: Path) -> None:
    """Write the heat map: ROUGE-1 from white (0) to dark (100); grey where nothing was measured."""
    size, left, top = 56, 60, 40
    parts = []
    for column, name in enumerate(COLUMNS):
        x = left + column * size
        parts.append(f'<text x="{x + size / 2}" y="{top - 12}" text-anchor="middle">{name}</text>')
        for layer in range(layers):
            y = top + layer * size
            cell = cells.cells.get(f"{layer} {name}", {}).get("summary")
            value = None if cell is None else cell["rouge1"]["mean"]
            shade = "#bbb" if value is None else f"hsl(215 70% {97 - 0.6 * value:.0f}%)"
            ink = "#fff" if value is not None and value > 55 else "#000"
            parts.append(f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="{shade}"/>')
            label = "" if value is None else f"{value:.0f}"
            parts.append(
                f'<text x="{x + size / 2}" y="{y + size / 2 + 5}" text-anchor="middle" '
                f'fill="{ink}">{label}</text>'
            )
    for layer in range(layers):
        parts.append(f'<text x="8" y="{top + layer * size + size / 2 + 5}">layer {layer}</text>')
    width, height = left + size * len(COLUMNS), top + size * layers + 8
    body = "\n".join(parts)
    write_text(
        path,
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="14">\n{body}\n</svg>\n',
    )


if __name__ == "__main__":
    main()

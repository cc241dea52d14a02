"""The README's table: eight results that matter, each with what it was measured on."""

from collections.abc import Callable

from rows.markdown import Results, exact, interval, span, table

GPT2, MINILM, TINY = "GPT-2 (124M), random", "MiniLM (BERT), trained", "tiny GPT-2, random"
SMOLLM2 = "SmolLM2-135M (LLaMA), trained"


def _dager(results: Results) -> list[list[object]]:
    cells = results.cells("dager_exact").values()
    seconds = span((cell["cpu_seconds"]["median"] for cell in cells), 1)
    bert = results.cells("dager_bert").items()
    gradients = [c for n, c in bert if n.startswith("minilm") and "delta" not in n]
    deltas = results.cells("dager_fedavg").items()
    floats = [cell for name, cell in deltas if name.endswith("float32")]
    rates = sorted(cell["learning_rate"] for cell in floats)
    minis = span((cell["mini_batch"] for cell in floats), 0)
    epochs = span((cell["epochs"] for cell in floats), 0)
    whole = results.cells("dager_smollm2").items()
    llm = [c for n, c in whole if ", gradient B" in n and "LoRA" not in n]
    few = results.cells("dager_protocols")["SGD, 3 epochs, mini-batches of 2, lr 1e-2"]
    adam = [c for n, c in results.cells("dager_protocols").items() if n.startswith("AdamW")]
    return [
        ["A gradient of 1 to 16 sentences, `dager`", f"{GPT2}; CoLA, SST-2, Rotten Tomatoes",
         f"{exact(cells)} read exactly, {seconds} s of processor each"],
        ["A gradient of 1 to 8 sentences, `dager`", f"{MINILM}; the same and WikiText-2",
         f"{exact(gradients)} read exactly"],
        ["A gradient of 1 to 8 texts, classified or predicted, `dager`",
         f"{SMOLLM2}; SST-2, CoLA, Alpaca",
         f"{exact(llm)} read exactly, "
         f"{span((cell['cpu_seconds']['median'] for cell in llm), 1)} s of processor each"],
        [f"FedAvg: {epochs} local epochs on 16 sentences in mini-batches of {minis}, learning "
         f"rate {rates[0]:g} to {rates[-1]:g}; 3 epochs on 4 in mini-batches of 2, "
         "0.01; `dager`", f"{GPT2}; Rotten Tomatoes",
         f"{exact(floats)} read exactly; {exact([few])}"],
        ["FedAvg with AdamW, `dager`", f"{GPT2}; Rotten Tomatoes",
         f"{exact(adam)} read exactly"],
    ]  # fmt: skip


def _others(results: Results) -> list[list[object]]:
    order = results.cells("matching_order")
    lamp, tag = order["cola B=1 lamp"], order["cola B=1 2,500 steps of tag"]
    scores = [interval(cell["summary"]["rouge1"], 0) for cell in (lamp, tag)]
    chance = lamp["summary"]["chance_rouge1"]
    cells = results.cells("defenses")
    tiny = "gpt2-tiny random, "
    by_dager = cells[f"leakage | {tiny}sst2 | sign"]["leakage"]["bag_f1"]["mean"]
    by_lamp = cells[f"matching | {tiny}sst2 | sign"]["leakage"]["bag_f1"]["mean"]
    private = [cells[f"{kind} | {tiny}sst2 | dp-sgd z=0.5"] for kind in ("leakage", "matching")]
    overlap = span((cell["leakage"]["bag_f1"]["mean"] for cell in private), 2)
    after = cells[f"utility | {tiny}clinic | dp-sgd z=0.5"]["utility"]["after"]
    return [
        ["A gradient of one sentence, `lamp`; `tag`", f"{MINILM}, 2 layers; CoLA",
         f"ROUGE-1 {scores[0]}; {scores[1]} (unrelated: {chance:.0f})"],
        ["One bit an entry (`sign`): `dager`; `lamp`", f"{TINY}; SST-2",
         f"token overlap {by_dager:.2f}; {by_lamp:.2f}"],
        ["DP-SGD, z = 0.5: `dager` and `lamp`", f"{TINY}; SST-2, clinic",
         f"token overlap {overlap}, accuracy {after:.2f} (chance 0.5)"],
    ]  # fmt: skip


def readme(results: Results) -> str:
    """Eight rows."""
    return table(
        ["what the server gets", "model, weights; data", "what it reads"],
        _dager(results) + _others(results),
    )


TABLES: dict[str, Callable[[Results], str]] = {"readme": readme}

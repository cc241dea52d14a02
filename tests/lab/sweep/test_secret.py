"""A sweep that was given a secret keeps to it."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedsim.lab.cli import main
from fedsim.lab.config import QUICK_START, read_toml
from fedsim.lab.store.lock import held
from fedsim.lab.sweep.directory import Ledger, SweepDirectory
from fedsim.lab.sweep.grid import make_plan
from fedsim.rng import Secret


def test_a_sweep_goes_on_with_the_secret_that_it_began_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = [tmp_path / "first", tmp_path / "second"]
    for place, path in enumerate(secrets):
        path.write_text(f"{place:032x}")
    assert main(["sweep", "seed=1,2", "--secret", str(secrets[0]), "--out", "none"]) == 2
    assert "--secret: no defense here claims a guarantee" in capsys.readouterr().err
    words = ["defense=none,gaussian", "seed=1,2"]
    mark = Secret(bytes(16)).bound("sweep").value.hex()
    for begun, root in ((mark, tmp_path / "with"), (None, tmp_path / "without")):
        plan = replace(make_plan(read_toml(QUICK_START), words, quick=True), secret=begun)
        with held(root):
            Ledger(SweepDirectory(root), plan)
    assert "00000000" not in (tmp_path / "with" / "sweep.json").read_text()
    resumed = ["sweep", "--resume", "--out", str(tmp_path / "with")]
    again = ["sweep", *words, "--quick", "--out", str(tmp_path / "without")]
    for given, said in (
        (resumed, "with --secret FILE; give that again"),
        ([*resumed, "--secret", str(secrets[1])], "with another --secret; choose"),
        ([*again, "--secret", str(secrets[0])], "without --secret; choose"),
    ):
        assert main(given) == 2
        assert f"holds this sweep {said}" in capsys.readouterr().err
    SweepDirectory(tmp_path / "with").claim(
        replace(SweepDirectory(tmp_path / "with").plan(), secret=mark)
    )

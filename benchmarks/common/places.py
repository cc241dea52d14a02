"""Where the checkout, the results and the real data beside the checkout are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DATA = ROOT.parent / "shared" / "data"


def need_data() -> None:
    """Leave with one clear line where the real data is not beside the checkout."""
    if not DATA.is_dir():
        raise SystemExit(f"nothing to measure: {DATA.name} is not beside the checkout")

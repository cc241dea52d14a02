"""Sweeps: a grid of cells, each a run, in one table."""

from fedsim.lab.sweep.runner import check_cells, run_cells

__all__ = ["check_cells", "run_cells"]

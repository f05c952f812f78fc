"""One page about runs: the verdict in words, the curves, the settings and the costs; and a model's card."""

from thack.reporting.grid import is_grid
from thack.reporting.model_card import model_card, write_card
from thack.reporting.write import write_grid_report, write_report

__all__ = ["is_grid", "model_card", "write_card", "write_grid_report", "write_report"]

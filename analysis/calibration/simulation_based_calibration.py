"""Simulation-based calibration: is the guide the posterior, on data that the model itself made?"""

from analysis.calibration.rank_calibration import (
    SimulationBasedCalibration,
    simulation_based_calibration,
)
from analysis.calibration.simulated_ranks import Ranks, simulated_ranks
from analysis.calibration.simulation_based_calibration_figures import (
    plot_calibration_by_dimension,
    plot_coverage,
    plot_sbc,
)

__all__ = [
    "Ranks",
    "SimulationBasedCalibration",
    "plot_calibration_by_dimension",
    "plot_coverage",
    "plot_sbc",
    "simulated_ranks",
    "simulation_based_calibration",
]

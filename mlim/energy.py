"""How much electricity a stage takes, and what that emits and costs: measured with CodeCarbon, without any network.

Intel and AMD processors and NVIDIA devices count for themselves; where the kernel does not show their counters,
CodeCarbon multiplies the share of the processor that is in use by what its model draws at most, which is an estimate.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlim.errors import InputError
from mlim.recipe.tracking import EnergyConfig

SECONDS_BETWEEN_READINGS = 15
KWH, KILOGRAMS, COST = "energy_kwh", "emissions_kg", "energy_cost"

Figures = dict[str, float]


def check_energy(energy: EnergyConfig | None) -> None:
    """`InputError` where energy is to be measured and CodeCarbon is missing or does not know the country."""
    if energy is None:
        return
    try:
        from codecarbon.input import DataSource
    except ImportError:
        raise InputError(
            "tracking.energy: measuring energy needs `pip install 'mlim[energy]'`; or set tracking.energy=null"
        ) from None
    known = DataSource().get_global_energy_mix_data()
    if energy.country not in known:
        raise InputError(f"tracking.energy.country: `{energy.country}` is no country with three letters, as DEU or USA")


@contextmanager
def measured(energy: EnergyConfig | None) -> Iterator[Callable[[], Figures]]:
    """Measure what this machine takes during the block; yields what stops the measurement and gives its figures.

    Energy in kWh, emissions in kg of CO2-equivalent, cost in the currency of the price. Empty without `energy`.
    """
    if energy is None:
        yield dict
        return
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    tracker = OfflineEmissionsTracker(
        country_iso_code=energy.country,
        measure_power_secs=SECONDS_BETWEEN_READINGS,
        output_methods=[],
        log_level="error",
        allow_multiple_runs=True,
    )
    tracker.start()
    try:
        yield lambda: _figures(tracker.stop(), tracker.final_emissions_data.energy_consumed, energy)
    finally:
        tracker.stop()


def _figures(kilograms: float | None, kwh: float, energy: EnergyConfig) -> Figures:
    cost = {} if energy.price is None else {COST: kwh * energy.price}
    return {KWH: kwh, KILOGRAMS: kilograms or 0.0, **cost}

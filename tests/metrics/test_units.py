"""The units of metrics: those that presets state, and those that evaluations need."""

import pytest

import registry
import zoo
from zoo.api import presets
from zoo.data import shapes
from zoo.metrics.units import unit_of


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_presets_state_these_units(preset):
    task = registry.get(preset.model).task
    for row in preset.manifest["metrics"]:
        assert row["unit"] == unit_of(row["name"], task), row


def test_every_metric_of_a_surface_has_a_unit():
    model = zoo.create("igr", width=32, depth=2, skips=())
    scan = shapes.sphere(200)
    for metric in model.evaluate(scan, scan=scan, resolution=24, samples=500):
        assert unit_of(metric, "surface")


def test_unknown_metrics_are_refused():
    assert unit_of("initial_tre_mm", "registration") == "mm"
    with pytest.raises(ValueError, match="metric must be one of .*'epe'.*not 'iou'"):
        unit_of("iou", "registration")
    with pytest.raises(ValueError, match="task must be one of"):
        unit_of("epe", "segmentation")

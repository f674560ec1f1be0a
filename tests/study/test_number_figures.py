"""The figures about numbers, drawn: letters that keep apart at both widths, and the same bytes again."""

import io

import pytest

from dsrun.inspection import open_runs
from dsrun.study.exhibit import NARROW
from dsrun.study.figure_files import drawing
from dsrun.study.loss_scale import loss_scale
from dsrun.study.magnitude_histograms import magnitude_distribution, magnitude_histograms
from dsrun.study.swallowed_updates import swallowed_updates
from dsrun.study.underflow_by_layer import underflow_by_layer
from dsrun.study.underflow_overflow import underflow_overflow
from tests.study.figure_checks import check_figure
from tests.study.run_folders import magnitudes_of, network_tensors, write_watched_run

FLOAT16 = {"arithmetic.storage.format": "float16"}
NO_MASTER = {"arithmetic.storage.format": "bfloat16", "arithmetic.master.format": "none"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two settings of bfloat16 and one of float16, with everything that the figures can show."""
    folder = tmp_path_factory.mktemp("runs")
    lossy = [t | {"flushed": 90, "overflowed": 5, "subnormal": 7, "nans": 40} for t in network_tensors(shift=2)]
    for place, (config, tensors) in enumerate(
        [
            (FLOAT16, lossy),
            (NO_MASTER, network_tensors("bfloat16", swallowed=6, changed=3)),
            (NO_MASTER | {"arithmetic.update.rounding": "stochastic"}, network_tensors("bfloat16", swallowed=6)),
        ]
    ):
        skipped = {"finite": False, "loss_scale": 1024.0} if config is FLOAT16 else {}
        tables = [magnitudes_of(step, tensors, loss_scale=1024.0 if skipped else 1.0) for step in (1, 100)]
        write_watched_run(folder / f"run{place}", tables, config=config, step_fields=skipped)
    return open_runs([folder])


@pytest.mark.slow
@pytest.mark.ci
def test_no_letters_meet_or_leave_the_figure_and_all_can_be_read(runs):
    exhibits = [*magnitude_histograms(runs), magnitude_distribution(runs), swallowed_updates(runs)]
    exhibits += [underflow_overflow(runs), underflow_by_layer(runs), loss_scale(runs)]
    assert len(exhibits) == 7
    for exhibit in exhibits:
        check_figure(exhibit)


def test_a_heat_map_has_the_same_bytes_again(runs):
    exhibit = underflow_by_layer(runs)
    with drawing("test"):
        assert svg(exhibit.draw(NARROW)) == svg(exhibit.draw(NARROW))


def svg(figure):
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()

"""The printed tables of a run."""

from meanfield.runs.tables import analysis_table

LONG = "rnnlm.multi_rnn_cell.cell_0.basic_lstm_cell.weights:posterior_mean"


def test_long_names_do_not_run_into_the_verdict():
    fit = {"verdict": "cannot tell", "mu": None, "sigma": 0.5, "reason": "few"}
    layer = {"verdict": "cannot tell", "reason": "few"}
    found = {
        "microstructure": {"w": fit, LONG: fit},
        "renormalization": {**layer, "layers": {"w": layer, LONG: layer}},
        "complexity": {"layers": {"w": layer, LONG: {**layer, "num_units": 1234567}}},
    }
    lines = analysis_table(found).splitlines()
    for line in (line for line in lines if LONG in line):
        assert f"  {LONG}  " in line
    rows = [
        line for line in lines if line.startswith(("  w ", f"  {LONG}", "  tensor"))
    ]
    starts = [line.find("cannot tell") for line in rows[:3]]
    assert starts[1] == starts[2] == rows[0].find("verdict")
    short = analysis_table(found | {"microstructure": {"w": fit}}).splitlines()
    assert short[2] == f"  {'tensor':<34}{'verdict':<16}{'mu':>8}{'sigma':>8}  reason"

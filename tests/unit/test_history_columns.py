"""The columns of history.csv are those of an undisturbed training, wherever its rows come from."""

from mlim.training.metric_logger import history_columns

LOSSES = {"mlm": 1.0, "recon": 0.1, "total": 1.1}
ROW = {"step": 2, "kind": "train", "mode": "all", **LOSSES, "learning_rate": 0.1, "grad_norm": 2.0}


def test_rows_from_a_checkpoint_give_the_same_columns():
    wanted = ["step", "kind", "mode", "mlm", "recon", "total", "grad_norm", "learning_rate"]
    assert history_columns([ROW]) == wanted
    assert history_columns([dict(sorted(ROW.items()))]) == wanted

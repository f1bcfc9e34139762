"""Results of whole catalogs on the results page."""

from mlim.completion.compared import HEAD, MODEL, MOST_FREQUENT, TREES, WITHOUT_PICTURE
from mlim.report.catalog_results import completions_part


def summary(attribute, others):
    figure = {"value": 0.3, "low": 0.25, "high": 0.35}
    return {
        "attribute": attribute,
        "pretraining": "words",
        "test": {"cells": 1200, "exact_match": {MODEL: figure}, "model_minus": dict.fromkeys(others, figure)},
    }


def test_attributes_completed_by_the_head_alone_are_not_compared_with_it():
    others = (MOST_FREQUENT, TREES, WITHOUT_PICTURE)
    lines = completions_part([summary("size", others), summary("colour", (*others, HEAD))])
    header, colour, size = (
        next(line for line in lines if word in line) for word in ("held-back cells |", "colour", "size")
    )
    assert header.rstrip(" |").endswith(f"minus {HEAD}")
    assert colour.count("+0.300 [+0.250, +0.350]") == 4
    assert size.count("+0.300 [+0.250, +0.350]") == 3
    assert size.rstrip(" |").endswith("\u2013")
    assert completions_part([]) == []

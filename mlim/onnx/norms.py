"""Layer norms of a graph, written so that onnxruntime computes them with vector instructions.

Its LayerNormalization takes one number after the other on a CPU, about four times as long; at small widths that is
longer than the products of matrices.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

LAYER_NORM: Final = "LayerNormalization"


def write_as_instance_norms(graph: Any) -> None:
    """Replace each layer norm of `graph` (an ONNX `GraphProto`) by the same numbers as an InstanceNormalization.

    Its instances are the rows, of one channel each.
    """
    widths = {weight.name: weight.dims[0] for weight in graph.initializer if len(weight.dims) == 1}
    nodes = []
    for node in graph.node:
        known = node.op_type == LAYER_NORM and len(node.input) == 3 and node.input[1] in widths
        nodes += _by_rows(graph, node, widths) if known else [node]
    del graph.node[:]
    graph.node.extend(nodes)


def _by_rows(graph: Any, norm: Any, widths: Mapping[str, int]) -> list[Any]:
    """What stands for one layer norm; its constants are added to `graph`."""
    from onnx import helper, numpy_helper

    (given, scale, bias), (output,) = norm.input, norm.output
    epsilon = next(each.f for each in norm.attribute if each.name == "epsilon")
    flat = np.array([-1, 1, widths[scale]])
    constants = {"flat": flat, "one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}
    graph.initializer.extend(numpy_helper.from_array(value, f"{output}.{name}") for name, value in constants.items())

    def node(kind: str, inputs: list[str], result: str, **attributes: float) -> Any:
        return helper.make_node(kind, inputs, [result], **attributes)

    return [
        node("Shape", [given], f"{output}.shape"),
        node("Reshape", [given, f"{output}.flat"], f"{output}.rows"),
        node(
            "InstanceNormalization",
            [f"{output}.{name}" for name in ("rows", "one", "zero")],
            f"{output}.normal",
            epsilon=epsilon,
        ),
        node("Reshape", [f"{output}.normal", f"{output}.shape"], f"{output}.shaped"),
        node("Mul", [f"{output}.shaped", scale], f"{output}.scaled"),
        node("Add", [f"{output}.scaled", bias], output),
    ]

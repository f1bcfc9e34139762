"""A recipe with a tiny LXMERT for each source of stored regions, and the detector of one of them."""

SHAPE = "width: 16, heads: 2"
CNN = "{kind: cnn, stem: 8, depths: [1, 1], widths: [8, 16]}"
DETECTOR = f"{{kind: e2e-vlp, image: {CNN}, depth: 1, decoder_depth: 1, queries: 4, {SHAPE}}}"
PIXELS = "features: {kind: patch, size: 4}"
SOURCES = {
    "annotated": f"source: annotated, count: 2, {PIXELS}",
    "grid": f"stored: true, side: 2, {PIXELS}",
    "detected": "source: 'detector:detector', count: 3, least_score: 0.0",
    "tsv": "source: tsv, count: 2",
}
TASKS = "[{task: region-feature}, {task: region-label}, {task: region-attribute}]"


def lxmert(source: str) -> str:
    """The shape of a system that reads regions of a source."""
    return f"{{kind: crossed, image: {{kind: regions, {SOURCES[source]}}}, text_depth: 1, cross_depth: 1, {SHAPE}}}"


SETTINGS = (
    f"systems={{found: {DETECTOR}, {', '.join(f'{source}: {lxmert(source)}' for source in SOURCES)}}}",
    "pretrainings.detector={system: found, tasks: [{task: detect, text: false}]}",
    *(
        f"pretrainings.{source}={{system: {source}, losses: [mlm, itm], masking: text, tasks: {TASKS}}}"
        for source in SOURCES
        if source != "grid"
    ),
    "pretrainings.grid={system: grid, losses: [mlm, itm], masking: text, tasks: [{task: region-feature}]}",
    "pretrain.masking={regions: 0.5, text: 0.5}",
    "pretrain.itm_swap=0.25",
    *(f"variants.{source}={{label: TSV {source}, pretraining: {source}}}" for source in SOURCES),
    "tracking.uri=none",
)

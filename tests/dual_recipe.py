"""A recipe with a tiny dual encoder."""

SETTINGS = (
    "systems={dual: {kind: dual, image: {size: 4, depth: 1}, text_depth: 1, width: 16, heads: 2, vector_size: 8}}",
    "pretrainings.dual={system: dual, tasks: [{task: itc}]}",
    "variants.dual={label: dual encoder, pretraining: dual, mdo: true, modality: both}",
    "variants.dual-scratch={label: no pre-training, pretraining: null, system: dual, mdo: true, modality: both}",
    *(f"{stage}.{key}" for stage in ("pretrain", "finetune") for key in ("steps=10", "validate_every=5")),
    "tracking.uri=none",
)

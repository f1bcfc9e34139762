"""A recipe with tiny systems of one encoder: ViLT with patches, Pixel-BERT with a convolutional network."""

SHAPE = "depth: 1, width: 16, heads: 2"
CNN = "{kind: cnn, stem: 8, depths: [1, 1], widths: [8, 16], sample: 3}"

SETTINGS = (
    f"systems={{vilt: {{kind: joint, image: {{kind: patch, size: 4}}, norm: pre, {SHAPE}}}, "
    f"pixel-bert: {{kind: joint, image: {CNN}, {SHAPE}}}}}",
    *(
        setting
        for name in ("vilt", "pixel-bert")
        for setting in (
            f"pretrainings.{name}={{system: {name}, losses: [mlm, itm], masking: text}}",
            f"variants.{name}={{label: {name}, pretraining: {name}}}",
            f"variants.{name}-scratch={{label: {name} without, pretraining: null, system: {name}}}",
        )
    ),
    *(f"{stage}.{key}" for stage in ("pretrain", "finetune") for key in ("steps=10", "validate_every=5")),
    "tracking.uri=none",
)

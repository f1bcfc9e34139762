"""A recipe with tiny systems that learn from annotations: E2E-VLP, its detector, GIT, and LXMERT."""

SHAPE = "width: 16, heads: 2"
CNN = "{kind: cnn, stem: 8, depths: [1, 1], widths: [8, 16]}"
E2E = f"{{kind: e2e-vlp, image: {CNN}, depth: 1, decoder_depth: 1, queries: 4, {SHAPE}}}"
GIT = f"{{kind: writer, image: {{kind: patch, size: 4}}, image_depth: 1, depth: 1, {SHAPE}}}"
LXMERT = f"{{kind: crossed, image: {{features: {{kind: patch, size: 4}}}}, text_depth: 1, cross_depth: 1, {SHAPE}}}"

TASKS = "[{task: detect}, {task: caption}]"
REGIONS = "[{task: region-feature}, {task: region-label}, {task: answer, from_step: 1}]"

SETTINGS = (
    f"systems={{e2e-vlp: {E2E}, git: {GIT}, lxmert: {LXMERT}}}",
    f"pretrainings.e2e-vlp={{system: e2e-vlp, losses: [mlm, itm], masking: text, tasks: {TASKS}}}",
    f"pretrainings.lxmert={{system: lxmert, losses: [mlm, itm], masking: text, tasks: {REGIONS}}}",
    "pretrainings.detector={system: e2e-vlp, tasks: [{task: detect, text: false}]}",
    "pretrainings.git={system: git, tasks: [{task: caption}]}",
    *(f"variants.{name}={{label: {name}, pretraining: {name}}}" for name in ("e2e-vlp", "git", "lxmert")),
    "tasks={caption: {steps: 4, batch_size: 4, validate_every: 2, images: 6, validation_images: 4}}",
    "variants.git-caption={label: GIT writes, pretraining: git, task: caption}",
    "variants.mlim-caption={label: MLIM writes, pretraining: null, task: caption}",
    "variants.e2e-caption={label: E2E-VLP writes, pretraining: e2e-vlp, task: caption, zero_shot: true}",
    "pretrain.masking.regions=0.5",
    "pretrain.optim.rates.embedder=0.1",
    *(f"{stage}.{key}" for stage in ("pretrain", "finetune") for key in ("steps=6", "validate_every=3")),
    "tracking.uri=none",
)

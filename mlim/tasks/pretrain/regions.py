"""What hidden regions of a picture were: their features, and the labels of the objects in them (LXMERT)."""

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from mlim.data.batches import ItemBatch, Objects
from mlim.errors import InputError
from mlim.losses import UNKNOWN, LossTerm, region_feature_loss, region_label_loss
from mlim.models.boxes import area, overlap, to_corners
from mlim.models.system import Fused, RestoresRegions, Shown, System
from mlim.recipe.regions import RegionFeatureTask, RegionLabelTask
from mlim.tasks.pretrain.passes import PassPlan
from mlim.tasks.pretrain.task import Targets, Task, not_offered

LEAST_COVER: Final = 0.5  # of a region, by the object whose label it has


class Labelled(NamedTuple):
    """Places (N,) in the flattened (B * C) regions of the hidden ones with an object, and its label (N,)."""

    places: Tensor
    labels: Tensor


class RegionFeature(Task[Fused]):
    """Targets are the places (N,) of the hidden regions in the flattened (B * C); every picture counts."""

    name, reads = "region-feature", "fused"

    def __init__(self, system: System) -> None:
        if not isinstance(system, RestoresRegions):
            raise not_offered(self.name, system)
        self._system: RestoresRegions = system

    @property
    def head(self) -> nn.Module:
        """From an output to a feature."""
        return self._system.region_feature_head

    def read(self, shown: Shown) -> Fused:
        """Outputs of text and regions that have seen each other."""
        return self._system.fuse(shown)

    def targets(self, plan: PassPlan) -> Targets:
        """The hidden regions of every picture, whatever text is shown beside it."""
        places = plan.masks.image.flatten().nonzero().squeeze(1)
        return Targets(places, places.numel())

    def loss(self, reading: Fused, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Squared error of the features."""
        if reading.patches is None or reading.features is None:
            raise ValueError("task region-feature needs pictures, but the batch has none")
        wanted = reading.features.flatten(0, 1)[targets.wanted]
        return region_feature_loss(self.head(reading.patches.flatten(0, 1)[targets.wanted]), wanted)

    def operations(self, targets: Targets, items: int) -> float:
        """Operations of the head at the hidden regions."""
        return self._system.region_operations(targets.number, labels=False)


class RegionLabel(Task[Fused]):
    """Targets are the labels of objects that cover at least half of a hidden region; every picture counts."""

    name, reads = "region-label", "fused"

    def __init__(self, system: System) -> None:
        if not isinstance(system, RestoresRegions) or system.region_label_head is None:
            raise not_offered(self.name, system)
        self._system: RestoresRegions = system
        self._head = system.region_label_head

    @property
    def head(self) -> nn.Module:
        """From an output to logits over labels."""
        return self._head

    def read(self, shown: Shown) -> Fused:
        """Outputs of text and regions that have seen each other."""
        return self._system.fuse(shown)

    def targets(self, plan: PassPlan) -> Targets:
        """The hidden regions with an object."""
        if plan.batch.objects is None:
            raise InputError(f"task {self.name} needs annotated objects; run `mlim annotate`, or choose other tasks")
        boxes = self._system.region_boxes.to(plan.masks.image.device)
        labels = labels_of(boxes, plan.batch.objects).masked_fill(~plan.masks.image, UNKNOWN).flatten()
        places = (labels != UNKNOWN).nonzero().squeeze(1)
        return Targets(Labelled(places, labels[places]), places.numel())

    def loss(self, reading: Fused, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Cross-entropy of the labels."""
        if reading.patches is None:
            raise ValueError("task region-label needs pictures, but the batch has none")
        wanted: Labelled = targets.wanted
        return region_label_loss(self._head(reading.patches.flatten(0, 1)[wanted.places]), wanted.labels)

    def operations(self, targets: Targets, items: int) -> float:
        """Operations of the head at the hidden regions with an object."""
        return self._system.region_operations(targets.number, labels=True)


def region_task(config: RegionFeatureTask | RegionLabelTask, system: System) -> Task[Fused]:
    """The task that `config` names, on what `system` offers."""
    return RegionFeature(system) if isinstance(config, RegionFeatureTask) else RegionLabel(system)


def labels_of(regions: Tensor, objects: Objects) -> Tensor:
    """The label (B, R) of the object that covers most of each region with corners (R, 4), at least `LEAST_COVER`.

    `UNKNOWN` where none does.
    """
    shared, _ = overlap(regions[:, None], to_corners(objects.boxes)[:, None])  # (B, R, M)
    most = (shared / area(regions)[:, None]).max(dim=2)
    return torch.where(most.values >= LEAST_COVER, objects.labels.gather(1, most.indices), UNKNOWN)

"""What hidden regions of a picture were: their features, and the labels of the objects in them (LXMERT)."""

from abc import abstractmethod
from typing import Final, NamedTuple, assert_never

import torch
from torch import Tensor, nn

from mlim.data.batches import ItemBatch, Objects
from mlim.errors import InputError
from mlim.losses import UNKNOWN, LossTerm, region_attribute_loss, region_feature_loss, region_label_loss
from mlim.models.boxes import area, overlap, to_corners
from mlim.models.system import Fused, RestoresRegions, Shown, System
from mlim.recipe.regions import RegionAttributeTask, RegionFeatureTask, RegionLabelTask
from mlim.tasks.pretrain.passes import PassPlan
from mlim.tasks.pretrain.task import Targets, Task, not_offered

LEAST_COVER: Final = 0.5  # of a region, by the object whose label it has


class Labelled(NamedTuple):
    """Places (N,) in the flattened (B * C) regions of the hidden ones with an object, its label (N,), how sure it is.

    `weights` (N,); None: all are.
    """

    places: Tensor
    labels: Tensor
    weights: Tensor | None


class Attributed(NamedTuple):
    """Places (N,) of the hidden regions with an attribute, its `values` (N, K), `UNKNOWN` for some, and how sure."""

    places: Tensor
    values: Tensor
    weights: Tensor


class HiddenRegions(Task[Fused]):
    """What the tasks on hidden regions share; every picture counts, whatever text is beside it."""

    reads = "fused"

    def __init__(self, system: System) -> None:
        if not isinstance(system, RestoresRegions) or (head := self.head_of(system)) is None:
            raise not_offered(self.name, system)
        self._system: RestoresRegions = system
        self._head = head

    @staticmethod
    @abstractmethod
    def head_of(system: RestoresRegions) -> nn.Module | None:
        """What reads the outputs for this task; None where the system was made without it."""

    @property
    def head(self) -> nn.Module:
        """The same, which is there."""
        return self._head

    def read(self, shown: Shown) -> Fused:
        """Outputs of text and regions that have seen each other."""
        return self._system.fuse(shown)

    def outputs(self, reading: Fused, places: Tensor) -> Tensor:
        """The outputs (N, H) at `places` (N,) of the flattened regions (B * C)."""
        if reading.patches is None:
            raise ValueError(f"task {self.name} needs pictures, but the batch has none")
        return reading.patches.flatten(0, 1)[places]

    def operations(self, targets: Targets, items: int) -> float:
        """Operations of the head at the regions that count."""
        return self._system.region_operations(targets.number, self.head)


class RegionFeature(HiddenRegions):
    """Targets are the places (N,) of the hidden regions in the flattened (B * C)."""

    name = "region-feature"

    @staticmethod
    def head_of(system: RestoresRegions) -> nn.Module:
        """From an output to a feature."""
        return system.region_feature_head

    def targets(self, plan: PassPlan) -> Targets:
        """The hidden regions of every picture."""
        places = plan.masks.image.flatten().nonzero().squeeze(1)
        return Targets(places, places.numel())

    def loss(self, reading: Fused, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Squared error of the features."""
        outputs = self.outputs(reading, targets.wanted)
        if reading.features is None:
            raise ValueError(f"task {self.name} needs features of regions, but the reading has none")
        return region_feature_loss(self.head(outputs), reading.features.flatten(0, 1)[targets.wanted])


class RegionLabel(HiddenRegions):
    """Targets are the labels of hidden regions.

    Stored regions have labels, which weigh as much as they are sure; else a region has the label of the annotated
    object that covers most of it, at least half.
    """

    name = "region-label"

    @staticmethod
    def head_of(system: RestoresRegions) -> nn.Module | None:
        """From an output to logits over labels."""
        return system.region_label_head

    def targets(self, plan: PassPlan) -> Targets:
        """The hidden regions with a label."""
        labels, weights = self._labels(plan)
        labels = labels.masked_fill(~plan.masks.image, UNKNOWN).flatten()
        places = (labels != UNKNOWN).nonzero().squeeze(1)
        sure = None if weights is None else weights.flatten()[places]
        return Targets(Labelled(places, labels[places], sure), places.numel())

    def _labels(self, plan: PassPlan) -> tuple[Tensor, Tensor | None]:
        """The label (B, R) of every region, and how sure it is."""
        if (stored := plan.batch.region_labels) is not None:
            return stored.labels, stored.scores
        if plan.batch.objects is None:
            raise InputError(f"task {self.name} needs annotated objects; run `mlim annotate`, or choose other tasks")
        return labels_of(self._system.region_boxes.to(plan.masks.image.device), plan.batch.objects), None

    def loss(self, reading: Fused, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Cross-entropy of the labels."""
        wanted: Labelled = targets.wanted
        return region_label_loss(self.head(self.outputs(reading, wanted.places)), wanted.labels, wanted.weights)


class RegionAttribute(HiddenRegions):
    """Targets are the attributes that are stored with hidden regions, each by how sure it is."""

    name = "region-attribute"

    @staticmethod
    def head_of(system: RestoresRegions) -> nn.Module | None:
        """From an output to logits over the values of all kinds."""
        return system.region_attribute_head

    def targets(self, plan: PassPlan) -> Targets:
        """The hidden regions with an attribute; they count as the mean over the kinds."""
        stored = plan.batch.region_labels
        if stored is None:
            raise InputError(f"task {self.name} needs stored regions with attributes; choose other tasks")
        values = stored.attributes.masked_fill(~plan.masks.image[..., None], UNKNOWN).flatten(0, 1)
        places = (values != UNKNOWN).any(dim=1).nonzero().squeeze(1)
        wanted = Attributed(places, values[places], stored.attribute_scores.flatten(0, 1)[places])
        number = int((wanted.values != UNKNOWN).sum()) / values.shape[1]
        return Targets(wanted, places.numel(), {self.name: number})

    def loss(self, reading: Fused, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Cross-entropy of the attributes."""
        wanted: Attributed = targets.wanted
        logits = self._system.region_attribute_logits(self.outputs(reading, wanted.places))
        return region_attribute_loss(logits, wanted.values, wanted.weights, targets.counts(self.name)[self.name])


def region_task(config: RegionFeatureTask | RegionLabelTask | RegionAttributeTask, system: System) -> Task[Fused]:
    """The task that `config` names, on what `system` offers."""
    match config:
        case RegionFeatureTask():
            return RegionFeature(system)
        case RegionLabelTask():
            return RegionLabel(system)
        case RegionAttributeTask():
            return RegionAttribute(system)
        case _:
            assert_never(config)


def labels_of(regions: Tensor, objects: Objects) -> Tensor:
    """The label (B, R) of the object that covers most of each region with corners (R, 4), at least `LEAST_COVER`.

    `UNKNOWN` where none does.
    """
    shared, _ = overlap(regions[:, None], to_corners(objects.boxes)[:, None])  # (B, R, M)
    most = (shared / area(regions)[:, None]).max(dim=2)
    return torch.where(most.values >= LEAST_COVER, objects.labels.gather(1, most.indices), UNKNOWN)

"""Detection: which objects are in the picture, where, with which attributes? (Carion et al. 2020, Xu et al. 2021)"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mlim.data.batches import ItemBatch, Objects
from mlim.errors import InputError
from mlim.losses import LossTerm
from mlim.models.detection import Detects
from mlim.models.system import Fused, Shown, System
from mlim.recipe.detect import DetectTask
from mlim.tasks.pretrain.passes import PassPlan
from mlim.tasks.pretrain.set_loss import largest, object_counts, set_loss
from mlim.tasks.pretrain.task import PICTURE, Targets, Task, not_offered

Reading = Fused | Tensor


class Detect(Task[Reading]):
    """Targets are the objects of the pictures that are shown, whatever text is shown beside them.

    Of a picture with more objects than the system has queries the largest count; a picture without any counts nothing.
    """

    name = "detect"

    def __init__(self, system: System, config: DetectTask) -> None:
        if not isinstance(system, Detects):
            raise not_offered(self.name, system)
        self._system: Detects = system
        self._config = config
        self.reads = "fused" if config.text else PICTURE
        self.uses_everything = config.text and config.attributes  # else words, or heads of attributes, do not learn

    @property
    def head(self) -> nn.Module:
        """Classes, boxes and attributes of the queries."""
        return self._system.detection_modules[-1]

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The queries, the decoder and the heads."""
        return self._system.detection_modules

    def read(self, shown: Shown) -> Reading:
        """Outputs of text and picture that have seen each other, or of the picture alone."""
        return self._system.fuse(shown) if self._config.text else self._system.look(shown)

    def targets(self, plan: PassPlan) -> Targets:
        """The objects of every picture."""
        if plan.batch.objects is None:
            raise InputError(f"task {self.name} needs annotated objects; run `mlim annotate`, or choose other tasks")
        queries, layers = self._system.queries_and_layers
        objects = largest(plan.batch.objects, queries)
        if not self._config.attributes:
            objects = objects._replace(attributes=objects.attributes[..., :0])
        return Targets(objects, int(objects.numbers.sum()), object_counts(objects, layers, queries))

    def losses(self, reading: Reading, targets: Targets, batch: ItemBatch) -> Mapping[str, LossTerm]:
        """Classes, distances and overlaps of boxes, and attributes."""
        wanted: Objects = targets.wanted
        if isinstance(reading, Fused):
            if reading.patches is None:
                raise ValueError("detection needs pictures, but the batch has none")
            return set_loss(self._system.detect(reading.patches, reading.text, batch.text_attention), wanted)
        return set_loss(self._system.detect(reading), wanted)

    def operations(self, targets: Targets, items: int) -> float:
        """Operations of decoder and heads, and of the encoder over pictures alone; texts count as their [CLS]."""
        return items * self._system.detection_operations(float(self._config.text), alone=not self._config.text)

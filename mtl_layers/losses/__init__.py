from mtl_layers.losses.exact_auc import exact_auc
from mtl_layers.losses.masked_loss import MaskedLoss
from mtl_layers.losses.masked_metric import MaskedMetric
from mtl_layers.losses.per_task import check_labels, per_task

__all__ = ["MaskedLoss", "MaskedMetric", "check_labels", "exact_auc", "per_task"]

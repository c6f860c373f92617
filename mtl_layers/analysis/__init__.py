from mtl_layers.analysis.allocation_figure import plot_allocation, plot_task_clusters
from mtl_layers.analysis.allocation_log import AllocationLog
from mtl_layers.analysis.expert_similarity import ExpertSimilarity, expert_similarity
from mtl_layers.analysis.gate_utilisation import GateUtilisation, gate_utilisation, plot_gate_utilisation
from mtl_layers.analysis.gates_beside_route import plot_gates_beside_route
from mtl_layers.analysis.gauc import gauc
from mtl_layers.analysis.grouped_auc import GroupedAUC
from mtl_layers.analysis.mask_log import MaskLog
from mtl_layers.analysis.mask_overlap import mask_overlap
from mtl_layers.analysis.negative_transfer import negative_transfer, plot_negative_transfer
from mtl_layers.analysis.route_figure import draw_route
from mtl_layers.analysis.task_embeddings import cosine_similarity, task_clusters, task_embeddings
from mtl_layers.analysis.task_relations import label_correlation, plot_task_relations, sharing_overlap
from mtl_layers.analysis.tensor_board_log import TensorBoardLog

__all__ = [
    "AllocationLog",
    "ExpertSimilarity",
    "GateUtilisation",
    "GroupedAUC",
    "MaskLog",
    "TensorBoardLog",
    "cosine_similarity",
    "draw_route",
    "expert_similarity",
    "gate_utilisation",
    "gauc",
    "label_correlation",
    "mask_overlap",
    "negative_transfer",
    "plot_allocation",
    "plot_gate_utilisation",
    "plot_gates_beside_route",
    "plot_negative_transfer",
    "plot_task_clusters",
    "plot_task_relations",
    "sharing_overlap",
    "task_clusters",
    "task_embeddings",
]

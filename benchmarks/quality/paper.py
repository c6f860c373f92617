"""The numbers that the papers print, to stand beside ours.

Per data set: what they are, and for each method the tasks' AUC in the order of ours, then the summed log loss where
there is one.
"""

PAPER = {
    "census": (
        "MMoE paper: mean AUC of 400 runs, up to 2,048 units a layer, other features and labels",
        {
            "single_task": (0.9337, 0.9922),
            "shared_bottom": (0.9295, 0.9921),
            "omoe": (0.9319, 0.9923),
            "mmoe": (0.9359, 0.9927),
        },
    ),
    "bookcrossing": (
        "MTNAS paper: the whole crawl, 1,149,780 ratings; AUC 0, AUC 1, loss",
        {
            "single_task": (0.7842, 0.7984),
            "shared_bottom": (0.7834, 0.8014, 0.7322),
            "mmoe": (0.7885, 0.8022, 0.7302),
            "multi_layer_mmoe": (0.7884, 0.8051, 0.7299),
            "mtnas": (0.7907, 0.8086, 0.7247),
            "mtnas_root_query": (None, None, 0.7260),
            "mtnas_mean": (None, None, 0.7286),
        },
    ),
    "kuairand": (
        "MTNAS paper: another set, the short-video challenge of 2019; AUC finish, AUC like, loss",
        {
            "single_task": (0.7485, 0.9428),
            "shared_bottom": (0.7478, 0.9415, 0.6020),
            "mmoe": (0.7488, 0.9425, 0.6006),
            "multi_layer_mmoe": (0.7487, 0.9421, 0.6011),
            "mtnas": (0.7507, 0.9467, 0.5930),
            "mtnas_root_query": (None, None, 0.5941),
            "mtnas_mean": (None, None, 0.5961),
        },
    ),
}

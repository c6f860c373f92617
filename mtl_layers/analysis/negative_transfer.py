"""Does a task lose by being learned together with others?"""

import numpy as np

from mtl_layers._checks import names_of


def negative_transfer(multi, single, lower_is_better=()):
    """Compares each task in a multi-task model with a model of its own, seed by seed.

    ```
    d_s = multi_s - single_s                               for each seed s; the other way round where lower is better
    low, high = mean(d) -+ t(0.975, seeds - 1) sd(d) / sqrt(seeds)
    ```

    Args:
        multi: Dict from task name to the metric of the multi-task model, an array with a value for each seed.
        single: The same of the single-task models, for the same seeds in the same order.
        lower_is_better: Names of the tasks whose metric is an error. Defaults to `()`.

    Returns:
        A list with a dict for each task, as `pandas.DataFrame` takes it: `task`, `seeds`, `multi` and `single` (means),
        `difference` (positive is a gain), `low` and `high` (95 % t-interval of the difference), and `verdict`:
        `"negative transfer"` if all of the interval is below 0, `"positive transfer"` if above, else `"undecided"`.

    Raises:
        ValueError: If the tasks differ, a task has less than two seeds or not as many in both, a value is not finite.
        ImportError: If scipy is not installed.

    Example:
        >>> auc = {"click": [0.71, 0.72, 0.71]}, {"click": [0.73, 0.73, 0.74]}
        >>> (click,) = mtl.analysis.negative_transfer(*auc)
        >>> round(click["difference"], 3), click["verdict"]
        (-0.02, 'undecided')
    """
    from scipy import stats

    if not isinstance(multi, dict) or not isinstance(single, dict) or set(multi) != set(single) or not multi:
        found = [sorted(each) if isinstance(each, dict) else each for each in (multi, single)]
        raise ValueError(
            f"`multi` and `single` must be dicts with the same tasks; received: multi={found[0]}, single={found[1]}"
        )
    lower_is_better = names_of("lower_is_better", lower_is_better)
    unknown = sorted(set(lower_is_better) - set(multi))
    if unknown:
        raise ValueError(f"`lower_is_better` must name tasks among {list(multi)}; received: {unknown}")
    records = []
    for task in multi:
        mine, alone = (np.asarray(each[task], "float64") for each in (multi, single))
        if mine.shape != alone.shape or mine.ndim != 1 or len(mine) < 2:
            raise ValueError(
                "`multi` and `single` must have two seeds or more for each task, the same for both; "
                f"received: {task!r} with shapes {mine.shape} and {alone.shape}"
            )
        if not np.isfinite([mine, alone]).all():
            raise ValueError(f"`multi` and `single` must be finite; received: {task!r} with {mine} and {alone}")
        gains = alone - mine if task in lower_is_better else mine - alone
        half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
        low, high = float(gains.mean() - half), float(gains.mean() + half)
        records.append(
            {
                "task": task,
                "seeds": len(gains),
                "multi": float(mine.mean()),
                "single": float(alone.mean()),
                "difference": float(gains.mean()),
                "low": low,
                "high": high,
                "verdict": "negative transfer" if high < 0 else "positive transfer" if low > 0 else "undecided",
            }
        )
    return records


def plot_negative_transfer(records, axes, title=None):
    """Draws the difference of each task with its interval: red below zero, blue above, grey where it says nothing.

    Args:
        records: As from `negative_transfer`.
        axes: The matplotlib axes to draw on.
        title: Defaults to `None`.

    Example:
        >>> from matplotlib import pyplot
        >>> figure, axes = pyplot.subplots()
        >>> records = mtl.analysis.negative_transfer({"click": [0.71, 0.72]}, {"click": [0.73, 0.73]})
        >>> mtl.analysis.plot_negative_transfer(records, axes)
        >>> pyplot.close(figure)
    """
    colors = {"negative transfer": "tab:red", "positive transfer": "tab:blue", "undecided": "grey"}
    for place, record in enumerate(records):
        errors = [[record["difference"] - record["low"]], [record["high"] - record["difference"]]]
        axes.errorbar(record["difference"], place, xerr=errors, fmt="o", capsize=3, color=colors[record["verdict"]])
    axes.axvline(0.0, color="black", lw=0.8)
    axes.set_yticks(range(len(records)), [record["task"] for record in records])
    axes.set_ylim(len(records) - 0.5, -0.5)
    axes.set_xlabel("multi-task minus single-task, 95 % interval")
    axes.set_title(title or "")

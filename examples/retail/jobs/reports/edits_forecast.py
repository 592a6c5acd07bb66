"""How many edits will the next ten minutes bring? One small model per channel, trained on Ray, predictions as a table.

Ray Data hands the windows of each channel to a task of its own. There a scikit-learn model learns from the first three
quarters of the day and predicts the rest, window by window, from the windows before.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import ray.data
from sklearn.linear_model import LinearRegression

from eagleray import job, table

LAGS = 3  # windows that a prediction looks back
TRAINED_ON = 0.75  # of the day


@job(
    output="reports.edits_forecast",
    mode="full",
    engine="ray",
    columns={"channel": "VARCHAR", "window_start": "TIMESTAMPTZ", "edits": "BIGINT", "predicted": "DOUBLE"},
    checks=[{"unique": ["channel", "window_start"]}],
)
def edits_forecast(
    windows: ray.data.Dataset = table("facts.channel_windows", columns=["channel", "window_start", "edits"]),
) -> ray.data.Dataset:
    """Channel, window, what was counted, and what the model of the channel said."""
    return windows.groupby("channel", num_partitions=2).map_groups(predict, batch_format="pyarrow")


def predict(windows: pa.Table) -> pa.Table:
    """Train on the beginning of one channel's day, predict the rest."""
    windows = windows.sort_by("window_start")
    edits = windows["edits"].to_numpy().astype(float)
    features = np.lib.stride_tricks.sliding_window_view(edits, LAGS)[:-1]  # row i: the LAGS windows before i + LAGS
    targets = edits[LAGS:]
    trained = int(len(edits) * TRAINED_ON) - LAGS
    model = LinearRegression().fit(features[:trained], targets[:trained])
    later = windows.slice(LAGS + trained)
    return later.append_column("predicted", pa.array(model.predict(features[trained:]), pa.float64()))

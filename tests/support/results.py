"""Results that scorers take."""

from __future__ import annotations

import pandas as pd


def results(topics: pd.DataFrame, documents: pd.DataFrame) -> pd.DataFrame:
    return topics.merge(documents, how="cross").sample(frac=1, random_state=7)

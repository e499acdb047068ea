"""What merging of two vectors says about their origin, and columns that it refuses; tests/images compares its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from pyterrier_csplade import Contract, DataError, FoldTerms, ImpactVector, MergeToks, PruneToks

CONTRACT = Contract(weights="w", vocabulary_sha256="v")


def merged(toks: Any, image_toks: Any) -> ImpactVector:
    (record,) = MergeToks().transform_iter([{"docno": "d", "toks": toks, "image_toks": image_toks}])
    frame = MergeToks()(pd.DataFrame([{"docno": "d", "toks": toks, "image_toks": image_toks}]))
    assert frame["toks"][0] == record["toks"] and frame["toks"][0].contract == record["toks"].contract
    return record["toks"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("toks", "image_toks", "known"),
    [
        (ImpactVector({"a": 3}, CONTRACT), ImpactVector({"b": 2}, CONTRACT), True),
        (ImpactVector({"a": 3}, CONTRACT), {"b": 2}, False),
        ({"b": 2}, ImpactVector({"a": 3}, CONTRACT), False),
        (ImpactVector({"a": 3}, CONTRACT), {}, True),
        (ImpactVector({"a": 3}, CONTRACT), None, True),
        (float("nan"), ImpactVector({"a": 3}, CONTRACT), True),
    ],
)
def test_terms_of_unknown_origin_make_the_origin_unknown(toks: Any, image_toks: Any, known: bool) -> None:
    assert merged(toks, image_toks).contract == (CONTRACT if known else None)


@pytest.mark.parametrize("other", ["toks", "", None, 3])
def test_the_other_column_must_be_another(other: Any) -> None:
    with pytest.raises(ValueError, match="other must be the name of a column besides 'toks', found"):
        MergeToks(other=other)
    used = MergeToks()
    used.set_parameter("other", other)
    with pytest.raises(ValueError, match="other must be the name of a column besides 'toks', found"):
        used(pd.DataFrame([{"docno": "d", "toks": {"a": 3}, "image_toks": {}}]))


@pytest.mark.parametrize("make", [MergeToks, FoldTerms, lambda: PruneToks(top_k=2)])
def test_every_record_of_a_stream_is_looked_at(make: Callable[[], Any]) -> None:
    records = [{"docno": "d", "toks": {"a": 1}, "image_toks": {}}, {"docno": "e"}]
    with pytest.raises(Exception, match=r"missing_columns=\['toks'"):
        list(make().transform_iter(records))
    with pytest.raises(DataError, match="a document must be a dict, found 'docno'; convert a DataFrame"):
        list(make().transform_iter(pd.DataFrame(records)))


@pytest.mark.parametrize("make", [MergeToks, FoldTerms, lambda: PruneToks(top_k=2)])
def test_a_number_beyond_the_largest_float_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(DataError, match="document 'd': toks: the weight of 'a' must be finite and at least 0, found 1000"):
        list(make().transform_iter([{"docno": "d", "toks": {"a": 10**400}, "image_toks": {}}]))

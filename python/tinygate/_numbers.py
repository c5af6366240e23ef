"""Numbers in the protocol's form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Union

#: A finite number, or "nan", "inf", "-inf", which JSON cannot write as numbers.
Scalar = Union[float, str]


def scalar(name: str, value: Any) -> Scalar:
    """The value of a metric.

    Takes Python numbers and everything with ``item()``, such as a tensor or a NumPy array with one element.

    :raises TypeError: for anything else.
    """
    try:
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, (bool, str, bytes, complex)) or not hasattr(number, "__float__"):
            raise TypeError(f"it is of type {type(number).__name__}")
        number = float(number)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"the metric `{name}` is not one number: {error}") from error
    if math.isnan(number):
        return "nan"
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    return number


def metrics(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Named numbers. None stands for a value that does not apply."""
    return [{"name": metric_name(name), "value": None if value is None else scalar(name, value)} for name, value in values.items()]


def metric_name(name: Any) -> str:
    """The name of a metric.

    :raises TypeError: if it is not a string, or empty.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a metric is a string that is not empty, not {name!r}")
    return name

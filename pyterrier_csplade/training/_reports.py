"""Where training curves are reported beside the files of the run."""

from __future__ import annotations

import importlib.util

from pyterrier_csplade._errors import ConfigError


def reporters(report_to: list[str] | None) -> list[str]:
    """Return the names of transformers' integrations: TensorBoard if it is installed, unless the configuration says more.

    Raises:
        ConfigError: An integration is unknown or not installed.
    """
    if report_to is None:
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        get_reporting_integration_callbacks(report_to)
    except ValueError as error:
        raise ConfigError(f"report_to: {error}") from error
    for name in report_to:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"report_to: {name} is not installed: pip install {name}")
    return report_to

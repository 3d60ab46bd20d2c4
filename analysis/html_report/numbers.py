"""Numbers of stored records as rows of a table: label, value, error and unit."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.html_report.stored_run import StoredRun
from analysis.report import LABELS

# A number of a record, which may be whole.
Scalar = float | int | None
# Keys of a record that are not numbers of its own.
_SKIPPED = {"reading", "verdicts", "figures", "numbers", "of", "stale", "left_out", "notes"}
# The error of a number is beside it, under its name and one of these endings.
_ERRORS = {
    "_se": "standard error",
    "_spread": "standard deviation over repetitions",
    "_quartiles": "quartiles",
    "_5_95": "5 % and 95 % quantiles",
}
# Within a record of one number, which has the name of the record.
_OWN_ERRORS = {"standard_error": _ERRORS["_se"], "spread": _ERRORS["_spread"]}
_OWN_VALUES = ("value", "mean", "accuracy")
# The longest list of numbers in a row; a longer one is in the file.
_LONGEST = 6
_NATS = "nats per {noun}"
# Units of the numbers of a diagnosis, by their places; the first that fits is taken. Others are
# without a unit, or in that of a summary statistic.
_UNITS = (
    (r"p_value", ""),
    (r"comparisons/(elbo|reconstruction|rate)/((real|generated)_mean|difference)$", _NATS),
    (r"^elbo/terms/(elbo|reconstruction|rate)", _NATS),
    (r"^elbo/(decomposition/)?(mutual_information|total_correlation|dimension_wise_kl)", _NATS),
    (r"^elbo/decomposition/(marginal_kl|rate|log_n|interpolation_error)", _NATS),
    (r"^guide/generalisation/(terms/\w+|adjusted)/(train|test|difference)$", _NATS),
    (r"^calibration/forecasts/log_score$", _NATS),
    (r"/log_(evidence|prior)(_\w+)?(/value|/mean)?$|/density/dip$", _NATS),
    (r"(^|/)\w*(share\w*|accuracy|agreement)(/|$)|/(chance|unseen|told_apart)$", "%"),
    (r"/(classifier_auroc\w*|false_alarms_at_95|\w+_below)$|/points/\d+/mean$", "%"),
)


# Of the programs' own scores.
_SCORE_UNITS = (
    (r"(^|_)(accuracy|share|confidence|coverage)(_|$)", "%"),
    (r"^kl_|log_density", _NATS),
    (r"(^|_)rmse(_|$)", "units of the data"),
)


@dataclass(frozen=True)
class Number:
    """A row of a table of numbers.

    Args:
        label: What it is.
        value: Its value, formatted.
        error: Its error with the kind of error; empty if there is none.
        unit: Its unit; empty without one.
        note: What it is compared with, or how it was computed.
    """

    label: str
    value: str
    error: str = ""
    unit: str = ""
    note: str = ""


def format_value(value: Scalar, error: float | None = None, *, percent: bool = False) -> str:
    """A number with the digits that its error leaves; "not defined" for None.

    >>> format_value(-98.76543, 0.123), format_value(0.5, percent=True), format_value(12345)
    ('-98.77', '50.0', '12,345')
    """
    if value is None:
        return "not defined"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and not percent:
        return f"{value:,}"
    factor = 100 if percent else 1
    value, error = factor * value, None if error is None else factor * error
    if error and math.isfinite(error):
        decimals = min(max(0, 1 - math.floor(math.log10(error))), 6)
        return f"{value:,.{decimals}f}"
    if percent:
        return f"{value:.1f}"
    return f"{value:,.2f}" if 1 <= abs(value) < 1e7 else f"{value:.3g}"


def _row(
    label: str,
    value: Scalar,
    unit: str,
    error: Scalar = None,
    kind: str = _ERRORS["_se"],
    note: str = "",
) -> Number:
    percent = unit == "%"
    known = error is not None and value is not None
    text = f"± {format_value(error, error, percent=percent)} ({kind})" if known else ""
    return Number(
        label, format_value(value, error, percent=percent), text, unit * (value is not None), note
    )


def evaluation_numbers(run: StoredRun) -> list[Number]:
    """The rows of metrics.json: scores of the test split, then the program's own."""
    metrics = run.metrics or {}
    nats, rows = _NATS.format(noun=run.noun), []

    def add(name: str, label: str, unit: str, note: str = "", error: Scalar = None) -> None:
        if name in metrics:
            error = metrics.get(f"{name}_se") if error is None else error
            rows.append(_row(label, metrics[name], unit, error, note=note))

    samples = metrics.get("log_evidence_samples")
    draws = "" if samples is None else f"{samples:,} importance samples per {run.noun}"
    add("log_evidence", "log p(x)", nats, draws)
    if (baseline := metrics.get("baseline")) is not None:
        add("baseline_log_density", f"baseline: {baseline}", nats, "no latent variables")
        add("above_baseline", "log p(x) above the baseline", nats)
    if (factors := metrics.get("factors")) is not None:
        add("factor_analysis_log_density", "factor analysis", nats, f"{factors} factors")
        add("above_factor_analysis", "log p(x) above factor analysis", nats)
    add("elbo", "ELBO", nats, "reconstruction - KL")
    add("reconstruction", "reconstruction, E_q log p(x | z)", nats)
    add("kl", "KL(q(z | x) || p(z))", nats)
    add("bits_per_dim", "bits per dimension", "bits", error=_bits_error(run))
    total = metrics.get("latent_units", metrics.get("latent_dim"))
    add("active_units", "active units", "dimensions", "" if total is None else f"of {total}")
    share, n = metrics.get("khat_share_above"), metrics.get("n")
    error = _share_error(share, n) if share is not None and n else None
    add("khat_share_above", "k-hat above its threshold", "%", f"of {run.nouns}", error=error)
    return [*rows, *program_numbers(run)]


def _share_error(share: float, n: int) -> float:
    """The standard error of a share of n examples; above 0 for a share of 0 or 1.

    It is that of the estimate (k + 1) / (n + 2) for k of n examples.
    """
    estimate = (share * n + 1) / (n + 2)
    return math.sqrt(estimate * (1 - estimate) / n)


def _bits_error(run: StoredRun) -> Scalar:
    """The standard error of bits per dimension, which is linear in log p(x)."""
    error = (run.metrics or {}).get("log_evidence_se")
    if error is None or run.contract is None:
        return None
    return error / (math.prod(run.contract.event_shape) * math.log(2))


def program_numbers(run: StoredRun) -> list[Number]:
    """The scores of a program other than the VAE, under the names of its documentation."""
    metrics = run.metrics or {}
    return [
        _row(
            name.replace("_", " "),
            _count(value),
            _score_unit(name, run),
            metrics.get(f"{name}_se"),
        )
        for name in metrics.get("scores", ())
        if not name.endswith("_se")
        and ((value := metrics.get(name)) is None or isinstance(value, (int, float)))
    ]


def _count(value: Scalar) -> Scalar:
    """A number of things as an integer, however it was stored."""
    return int(value) if value is not None and value > 1 and value == int(value) else value


def _score_unit(name: str, run: StoredRun) -> str:
    for pattern, unit in _SCORE_UNITS:
        if re.search(pattern, name):
            return unit.format(noun=run.noun)
    return ""


def diagnosis_numbers(section: str, record: Mapping[str, Any], noun: str) -> list[Number]:
    """All numbers of a section of a diagnosis, each with the error that stands beside it."""
    return [*_walk(record, (section,), noun)]


def _walk(record: Mapping[str, Any], place: tuple[str, ...], noun: str) -> Iterator[Number]:
    for name, value in record.items():
        inner = (*place, name)
        if name in _SKIPPED or _is_error_of_another(name, record):
            continue
        if isinstance(value, Mapping):
            yield from _walk(value, inner, noun)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if value and all(isinstance(item, Mapping) for item in value):
                for number, item in enumerate(value, 1):
                    yield from _walk(item, (*inner, str(number)), noun)
            elif 0 < len(value) <= _LONGEST and all(map(_is_number, value)):
                yield _list_row(inner, value, _errors_of(name, record)[0], noun)
        elif isinstance(value, (int, float)):
            unit = "" if isinstance(value, bool) else _unit(inner, noun)
            error, kind = _errors_of(name, record)
            if isinstance(error, Sequence):
                percent = unit == "%"
                ends = " to ".join(format_value(each, percent=percent) for each in error)
                text = format_value(value, percent=percent)
                yield Number(_label(inner), text, f"{ends} ({kind})", unit)
            else:
                yield _row(_label(inner), value, unit, error, kind)


def _list_row(place: tuple[str, ...], values: Sequence[Any], errors: Any, noun: str) -> Number:
    """A short list of numbers as one row."""
    unit = _unit(place, noun)
    percent = unit == "%"
    text = ", ".join(format_value(value, percent=percent) for value in values)
    known = isinstance(errors, Sequence) and len(errors) == len(values)
    shown = ", ".join(format_value(each, percent=percent) for each in errors) if known else ""
    return Number(_label(place), text, f"± {shown} (standard errors)" * bool(shown), unit)


def _errors_of(name: str, record: Mapping[str, Any]) -> tuple[Any, str]:
    """The error of a number in its record, and the kind of error."""
    own = next((each for each in _OWN_VALUES if each in record), None)
    places = {f"{name}{ending}": kind for ending, kind in _ERRORS.items()}
    places |= _OWN_ERRORS if name == own else {}
    found = [(record.get(key), kind) for key, kind in places.items()]
    return next((each for each in found if isinstance(each[0], (int, float, list))), (None, ""))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _is_error_of_another(name: str, record: Mapping[str, Any]) -> bool:
    if name in _OWN_ERRORS:
        return any(each in record for each in _OWN_VALUES)
    return any(name.endswith(end) and name.removesuffix(end) in record for end in _ERRORS)


def _label(place: tuple[str, ...]) -> str:
    return ": ".join(LABELS.get(name, name.replace("_", " ")) for name in place[1:])


def _unit(place: tuple[str, ...], noun: str) -> str:
    path = "/".join(place)
    for pattern, unit in _UNITS:
        if re.search(pattern, path):
            return unit.format(noun=noun)
    return ""

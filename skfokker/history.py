"""``history_`` as a data frame."""

from __future__ import annotations


def history_frame(history: list[dict]):
    """Records of a march, one row a step.

    Parameters
    ----------
    history : list of dict
        As in ``history_``.

    Returns
    -------
    pandas.DataFrame
        Indexed by the number of the step from 0, the start. ``t`` and ``wall_time`` come first,
        then what the scheme recorded, in the order in which it first appeared; NaN where a step
        has no such entry. What is no number (the inner losses and duals of `AdamNested`) stays
        an object.

    Raises
    ------
    ImportError
        Where pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "history_frame needs pandas, which is not installed: pip install pandas. The records "
            "themselves are in history_, a list of dicts."
        ) from error
    columns = list(dict.fromkeys(["t", "wall_time", *(name for row in history for name in row)]))
    index = pandas.RangeIndex(len(history), name="step")
    return pandas.DataFrame.from_records(history, columns=columns, index=index)

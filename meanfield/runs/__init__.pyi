from . import (
    analyze as analyze,
    architecture as architecture,
    coalitions as coalitions,
    comparison as comparison,
    config as config,
    credit as credit,
    credit_tables as credit_tables,
    folder as folder,
    label as label,
    pictures as pictures,
    predict as predict,
    predictions as predictions,
    report as report,
    sample as sample,
    score as score,
    settings as settings,
    shipped as shipped,
    tables as tables,
    train as train,
)
from .config import versions as versions
from .folder import Run as Run, load_run as load_run

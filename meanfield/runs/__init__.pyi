from . import analyze as analyze, report as report, run as run, workflow as workflow
from .run import Run as Run, load_run as load_run, versions as versions

"""Tables, figures and the HTML report of a run."""

from stackelgrid.report.finished import ReportError
from stackelgrid.report.page import write

__all__ = ["ReportError", "write"]

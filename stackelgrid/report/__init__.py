"""The HTML report of a run, its figures and its tables."""

from stackelgrid.report.page import write
from stackelgrid.report.run_folder import ReportError

__all__ = ["ReportError", "write"]

"""Tables, figures and the HTML report of a run."""

from stackelgrid.report.page import write
from stackelgrid.report.run_folder import ReportError

__all__ = ["ReportError", "write"]

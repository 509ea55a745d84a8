from stackelgrid.runner import Run as Run
from stackelgrid.runner import load as load
from stackelgrid.runner import resume as resume
from stackelgrid.runner import run as run

__version__: str

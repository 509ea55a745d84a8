"""The algorithms that come with the game, by name. Their parts are text: a home's process imports none of a leader."""

from functools import partial

from stackelgrid.registry import Algorithm

_algorithm = partial(Algorithm, package=__name__, game="user_oriented")

ALGORITHMS = {
    "newton": _algorithm(
        title="a local model of the response, from loads and sensitivities", leader="newton:choose_search"
    ),
    "loads_only": _algorithm(
        title="the same model, learnt from loads alone",
        leader="loads_only:LoadsOnly",
        loads_alone=True,
        beyond=1e-5,  # the neighbours of a price
    ),
    "paper_003": _algorithm(
        title="Algorithms 1 and 2 of the paper", leader="paper_003:PaperAlgorithm", loads_alone=True
    ),
    "dual_decomposition": _algorithm(
        title="dual gradient steps towards marginal cost",
        leader="dual_decomposition:DualDecomposition",
        loads_alone=True,
    ),
}

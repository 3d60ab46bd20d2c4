"""The ways that there are. What lists them, reads them here."""

from analysis.speed.by_hand import ByHand, ByHandCompiled, MatrixProducts
from analysis.speed.cuda_graph import ByHandCudaGraph
from analysis.speed.numpyro_ways import NumPyroEpoch
from analysis.speed.pyro_ways import PyroExample, PyroInMemory
from analysis.speed.pythae_ways import PythaeTrainer
from analysis.speed.this_project import ThisBfloat16, ThisCompiled, ThisEager
from analysis.speed.way import Way

WAYS: dict[str, type[Way]] = {
    "matrix_products": MatrixProducts,
    "by_hand": ByHand,
    "by_hand_compiled": ByHandCompiled,
    "by_hand_cuda_graph": ByHandCudaGraph,
    "this_eager": ThisEager,
    "this_compiled": ThisCompiled,
    "this_bfloat16": ThisBfloat16,
    "numpyro": NumPyroEpoch,
    "pythae": PythaeTrainer,
    "pyro_memory": PyroInMemory,
    "pyro_example": PyroExample,
}

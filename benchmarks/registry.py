"""The ways that there are. What lists them, reads them here."""

from benchmarks.cuda_graph import ByHandCudaGraph
from benchmarks.numpyro_ways import NumPyroEpoch
from benchmarks.plain_torch import ByHand, ByHandCompiled, MatrixProducts
from benchmarks.pyro_ways import PyroExample, PyroInMemory
from benchmarks.pythae_ways import PythaeTrainer
from benchmarks.this_project import ThisBfloat16, ThisCompiled, ThisEager
from benchmarks.way import Way

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

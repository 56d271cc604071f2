"""Groups of MXNet's operators, by their role in a figure."""

from __future__ import annotations


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


#: end a graph with a loss
LOSSES = _ops(
    "MakeLoss SoftmaxOutput LinearRegressionOutput LogisticRegressionOutput "
    "MAERegressionOutput SVMOutput make_loss"
)
#: make or choose boxes
PROPOSALS = _ops(
    "Custom _contrib_MultiProposal _contrib_Proposal _contrib_box_nms _contrib_MultiBoxTarget "
    "_contrib_MultiBoxDetection _contrib_MultiBoxPrior"
)
#: have inputs that no gradient flows into: the positions of those inputs, or None for all
NO_GRADIENT: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("BlockGrad", "Custom", "ones_like", "zeros_like")),
    **dict.fromkeys(("_contrib_MultiProposal", "_contrib_Proposal", "_contrib_MultiBoxTarget")),
    **dict.fromkeys(("SoftmaxOutput", "ROIPooling", "_contrib_ROIAlign"), (1,)),
}
#: have weights
LAYERS = _ops("Convolution Deconvolution FullyConnected BatchNorm")
ADD = _ops("elemwise_add broadcast_add _Plus add_n")
#: usually follow a layer
AFTER = _ops("Activation LeakyReLU relu BatchNorm Dropout")
#: change an array's shape or type only
SHAPE = _ops(
    "Reshape Flatten transpose expand_dims squeeze slice slice_axis slice_like SwapAxis Cast "
    "broadcast_to broadcast_like amp_cast reverse tile repeat identity _copy"
)
ARITHMETIC = _ops(
    "elemwise_add elemwise_sub elemwise_mul elemwise_div broadcast_add broadcast_sub broadcast_mul "
    "broadcast_div broadcast_power broadcast_maximum _plus_scalar _minus_scalar _rminus_scalar "
    "_mul_scalar _div_scalar _rdiv_scalar _power_scalar _maximum_scalar _minimum_scalar _maximum "
    "_minimum smooth_l1 abs square sqrt exp log relu sigmoid hard_sigmoid negative clip sum "
    "sum_axis mean max min Concat concat stack where add_n ones_like zeros_like _np_cumsum cumsum "
    "take pick _equal_scalar _not_equal_scalar _greater_scalar _greater_equal_scalar "
    "_lesser_scalar broadcast_equal broadcast_greater broadcast_lesser _equal _greater _lesser "
    "one_hot"
)

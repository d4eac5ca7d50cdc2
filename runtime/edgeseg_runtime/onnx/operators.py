"""The standard operators that a bundle may hold.

All operators of `ai.onnx`, opsets 13 to 23, that give the same result for the same input every time,
have shapes that are known before the graph runs, and are had by more than one engine. Not in the
table, and why:

- RandomNormal, RandomUniform, Bernoulli, Multinomial and their like, Dropout: chance.
- NonZero, Unique, Compress, NonMaxSuppression: the size of the result depends on the picture, which
  no engine plans memory for.
- If, Scan: nothing of edgeseg's is written with them. Loop is looked at apart, see `onnx.loops`.
- Sequence..., Optional..., String..., TfIdfVectorizer, RegexFullMatch, ImageDecoder: types that are
  not tensors of numbers; some read what they are given as a picture or a pattern.
- MaxRoiPool, RoiAlign, MaxUnpool: read or write at places that are computed, without bounds in every
  engine or with work without bound; `edgeseg::AtlasRoiAlign` is made of operators above suspicion.
- DFT, STFT, windows, MelWeightMatrix, Det, Col2Im, CenterCropPad, Attention, RotaryEmbedding,
  RMSNormalization: one engine has them, or the newest releases only.
- NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss: training.
- Scatter, Upsample: removed from ONNX.
"""

from __future__ import annotations

from typing import NamedTuple

from edgeseg_runtime.onnx.rules import arithmetic, layout, windows
from edgeseg_runtime.onnx.rules.values import Rule

__all__ = ["ANY", "ATTRIBUTES", "MAX_OPSET", "MIN_OPSET", "OPERATORS", "Operator"]

MIN_OPSET, MAX_OPSET = 13, 23
"""Of `ai.onnx`. Before 13 axes are attributes; after 23 is what no release for a device knows."""

_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS, _STRINGS = 1, 2, 3, 4, 6, 7, 8

ANY = 2**15
"""Inputs or outputs of an operator that takes any number; none of them may be left out."""


def _words(text: str) -> list[str]:
    return text.split()


ATTRIBUTES: dict[str, int] = {
    **dict.fromkeys(
        _words(
            """allowzero align_corners antialias axis batch_axis batch_dims block_size blocksize
            ceil_mode count_include_pad detect_negative detect_positive dtype end
            exclude_outside exclusive fmod group hidden_size input_forget k keepdims largest
            layout linear_before_reset noop_with_empty_axes num_groups num_outputs offset_group
            output_dtype p precision reverse saturate select_last_index size sorted start
            stash_type storage_order time_axis to training_mode transA transB upper value_int"""
        ),
        _INT,
    ),
    **dict.fromkeys(
        _words(
            """alpha beta bias clip cubic_coeff_a epsilon extrapolation_value gamma lambd momentum
            value_float"""
        ),
        _FLOAT,
    ),
    **dict.fromkeys(
        _words(
            """approximate auto_pad coordinate_transformation_mode direction equation
            keep_aspect_ratio_policy mode nearest_mode padding_mode reduction"""
        ),
        _STRING,
    ),
    **dict.fromkeys(_words("value"), _TENSOR),
    **dict.fromkeys(_words("activation_alpha activation_beta value_floats"), _FLOATS),
    **dict.fromkeys(
        _words(
            "axes dilations kernel_shape output_padding output_shape pads perm strides value_ints"
        ),
        _INTS,
    ),
    **dict.fromkeys(_words("activations"), _STRINGS),
}
"""Attribute -> its type (onnx.proto, AttributeProto.AttributeType), the same in all operators."""


class Operator(NamedTuple):
    """What nodes of an operator look like, over all opsets that are read.

    Attributes:
        min_inputs: inputs that may not be left out.
        max_inputs: of all.
        max_outputs: of all; one at least.
        attributes: names of those that a node may have.
        infer: gives the types and shapes of the outputs.
    """

    min_inputs: int
    max_inputs: int
    max_outputs: int
    attributes: frozenset[str]
    infer: Rule


def _operator(inputs: tuple[int, int], outputs: int, attributes: str, infer: Rule) -> Operator:
    return Operator(*inputs, outputs, frozenset(attributes.split()), infer)


_WINDOWS = "auto_pad dilations kernel_shape pads strides"
_REDUCED = "keepdims noop_with_empty_axes"
_CELL = "activation_alpha activation_beta activations clip direction hidden_size layout"
_RESIZED = """antialias axes coordinate_transformation_mode cubic_coeff_a exclude_outside
    extrapolation_value keep_aspect_ratio_policy mode nearest_mode"""


def _same(attributes: str = "", *names: str) -> dict[str, Operator]:
    return dict.fromkeys(names, _operator((1, 1), 1, attributes, arithmetic.same))


OPERATORS: dict[str, Operator] = {
    # One value in, one out.
    **_same("", "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil"),
    **_same("", "Cos", "Cosh", "Erf", "Exp", "Floor", "HardSwish", "Identity", "Log", "Mish"),
    **_same("", "Neg", "Not", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh"),
    **_same("", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh"),
    **_same("alpha", "Celu", "Elu", "LeakyRelu", "ThresholdedRelu"),
    **_same("approximate", "Gelu"),
    **_same("alpha beta", "HardSigmoid"),
    **_same("alpha gamma", "Selu"),
    **_same("bias lambd", "Shrink"),
    "Cast": _operator((1, 1), 1, "saturate to", arithmetic.cast),
    "CastLike": _operator((2, 2), 1, "saturate", arithmetic.cast_like),
    "Clip": _operator((1, 3), 1, "", arithmetic.clip),
    "IsInf": _operator((1, 1), 1, "detect_negative detect_positive", arithmetic.same_bool),
    "IsNaN": _operator((1, 1), 1, "", arithmetic.same_bool),
    # Values against each other. The sizes of the result are those of the inputs, multiplied at worst.
    **dict.fromkeys(
        ("Add", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Mul", "Pow", "Sub"),
        _operator((2, 2), 1, "", arithmetic.elementwise),
    ),
    **dict.fromkeys(
        ("Max", "Mean", "Min", "Sum"), _operator((1, ANY), 1, "", arithmetic.elementwise)
    ),
    **dict.fromkeys(
        _words("And Equal Greater GreaterOrEqual Less LessOrEqual Or Xor"),
        _operator((2, 2), 1, "", arithmetic.comparison),
    ),
    "BitShift": _operator((2, 2), 1, "direction", arithmetic.elementwise),
    "Div": _operator((2, 2), 1, "", arithmetic.division),
    "Mod": _operator((2, 2), 1, "fmod", arithmetic.division),
    "PRelu": _operator((2, 2), 1, "", arithmetic.prelu),
    "Where": _operator((3, 3), 1, "", arithmetic.where),
    # Along axes.
    **dict.fromkeys(
        _words(
            """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
            ReduceProd ReduceSumSquare"""
        ),
        _operator((1, 2), 1, f"axes {_REDUCED}", arithmetic.reduction),
    ),
    "ReduceSum": _operator((1, 2), 1, _REDUCED, arithmetic.reduction),
    **dict.fromkeys(
        ("ArgMax", "ArgMin"),
        _operator((1, 1), 1, "axis keepdims select_last_index", arithmetic.arg_reduction),
    ),
    **dict.fromkeys(
        ("Hardmax", "LogSoftmax", "Softmax"), _operator((1, 1), 1, "axis", arithmetic.along_axis)
    ),
    "CumSum": _operator((2, 2), 1, "exclusive reverse", arithmetic.cum_sum),
    "LpNormalization": _operator((1, 1), 1, "axis p", arithmetic.along_axis),
    "TopK": _operator((2, 2), 2, "axis largest sorted", arithmetic.top_k),
    # Normalisation.
    "BatchNormalization": _operator(
        (5, 5), 1, "epsilon momentum training_mode", arithmetic.batch_norm
    ),
    "GroupNormalization": _operator(
        (3, 3), 1, "epsilon num_groups stash_type", arithmetic.group_norm
    ),
    "InstanceNormalization": _operator((3, 3), 1, "epsilon", arithmetic.channel_norm),
    "LRN": _operator((1, 1), 1, "alpha beta bias size", arithmetic.response_norm),
    "LayerNormalization": _operator((2, 3), 3, "axis epsilon stash_type", arithmetic.layer_norm),
    "MeanVarianceNormalization": _operator((1, 1), 1, "axes", arithmetic.axes_norm),
    # Convolutions, pooling, products.
    "Conv": _operator((2, 3), 1, f"{_WINDOWS} group", windows.conv),
    "ConvInteger": _operator((2, 4), 1, f"{_WINDOWS} group", windows.conv_integer),
    "ConvTranspose": _operator(
        (2, 3), 1, f"{_WINDOWS} group output_padding output_shape", windows.conv_transpose
    ),
    "DeformConv": _operator(
        (3, 5), 1, "dilations group kernel_shape offset_group pads strides", windows.deform_conv
    ),
    "QLinearConv": _operator((8, 9), 1, f"{_WINDOWS} group", windows.quantized_conv),
    "AveragePool": _operator((1, 1), 1, f"{_WINDOWS} ceil_mode count_include_pad", windows.pool),
    "LpPool": _operator((1, 1), 1, f"{_WINDOWS} ceil_mode p", windows.pool),
    "MaxPool": _operator((1, 1), 2, f"{_WINDOWS} ceil_mode storage_order", windows.pool),
    **dict.fromkeys(
        ("GlobalAveragePool", "GlobalMaxPool"), _operator((1, 1), 1, "", windows.global_pool)
    ),
    "GlobalLpPool": _operator((1, 1), 1, "p", windows.global_pool),
    "Einsum": _operator((1, ANY), 1, "equation", arithmetic.einsum),
    "Gemm": _operator((2, 3), 1, "alpha beta transA transB", arithmetic.gemm),
    "MatMul": _operator((2, 2), 1, "", arithmetic.mat_mul),
    "MatMulInteger": _operator((2, 4), 1, "", arithmetic.mat_mul_integer),
    "QLinearMatMul": _operator((8, 8), 1, "", arithmetic.quantized_mat_mul),
    # Another layout of the same numbers.
    "Concat": _operator((1, ANY), 1, "axis", layout.concat),
    "DepthToSpace": _operator((1, 1), 1, "blocksize mode", layout.depth_to_space),
    "Flatten": _operator((1, 1), 1, "axis", layout.flatten),
    "Reshape": _operator((2, 2), 1, "allowzero", layout.reshape),
    "ReverseSequence": _operator((2, 2), 1, "batch_axis time_axis", layout.reverse_sequence),
    "Slice": _operator((3, 5), 1, "", layout.slice_),
    "SpaceToDepth": _operator((1, 1), 1, "blocksize", layout.space_to_depth),
    "Split": _operator((1, 2), ANY, "axis num_outputs", layout.split),
    "Squeeze": _operator((1, 2), 1, "", layout.squeeze),
    "Transpose": _operator((1, 1), 1, "perm", layout.transpose),
    "Trilu": _operator((1, 2), 1, "upper", layout.trilu),
    "Unsqueeze": _operator((2, 2), 1, "", layout.unsqueeze),
    # Indices.
    "Gather": _operator((2, 2), 1, "axis", layout.gather),
    "GatherElements": _operator((2, 2), 1, "axis", layout.gather_elements),
    "GatherND": _operator((2, 2), 1, "batch_dims", layout.gather_nd),
    "ScatterElements": _operator((3, 3), 1, "axis reduction", layout.scatter_elements),
    "ScatterND": _operator((3, 3), 1, "reduction", layout.scatter_nd),
    # What makes large things from small ones: sizes must be known, and the result is bounded.
    "AffineGrid": _operator((2, 2), 1, "align_corners", windows.affine_grid),
    "ConstantOfShape": _operator((1, 1), 1, "value", layout.constant_of_shape),
    "Expand": _operator((2, 2), 1, "", layout.expand),
    "EyeLike": _operator((1, 1), 1, "dtype k", layout.eye_like),
    "GridSample": _operator((2, 2), 1, "align_corners mode padding_mode", windows.grid_sample),
    "OneHot": _operator((3, 3), 1, "axis", layout.one_hot),
    "Pad": _operator((2, 4), 1, "mode", layout.pad),
    "Range": _operator((3, 3), 1, "", layout.range_),
    "Resize": _operator((1, 4), 1, _RESIZED, windows.resize),
    "Tile": _operator((2, 2), 1, "", layout.tile),
    # Constants, and sizes of what has a free axis.
    "Constant": _operator(
        (0, 0), 1, "value value_float value_floats value_int value_ints", layout.constant
    ),
    "Shape": _operator((1, 1), 1, "end start", layout.shape),
    "Size": _operator((1, 1), 1, "", layout.size),
    # Whole numbers for real ones.
    "DequantizeLinear": _operator((2, 3), 1, "axis block_size output_dtype", arithmetic.dequantize),
    "DynamicQuantizeLinear": _operator((1, 1), 3, "", arithmetic.dynamic_quantize),
    "QuantizeLinear": _operator(
        (2, 3), 1, "axis block_size output_dtype precision saturate", arithmetic.quantize
    ),
    # Recurrent layers: as many steps as the sequence is long.
    "GRU": _operator((3, 6), 2, f"{_CELL} linear_before_reset", arithmetic.recurrent(3)),
    "LSTM": _operator((3, 8), 3, f"{_CELL} input_forget", arithmetic.recurrent(4)),
    "RNN": _operator((3, 6), 2, _CELL, arithmetic.recurrent(1)),
}
"""Operator of `ai.onnx` -> what its nodes look like."""

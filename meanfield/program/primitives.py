"""Names of JAX's primitives, grouped by their effect on the entries of an array."""

ENTRYWISE = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp "
    "convert_element_type cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 "
    "floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul ne "
    "neg nextafter not or pow rem round rsqrt select_n sign sin sinh sqrt square "
    "stop_gradient sub tan tanh xor copy reduce_precision".split()
)
# Primitives that keep the value of every entry, up to rounding, and may change its
# position.
MOVES = frozenset(
    "transpose reshape broadcast_in_dim convert_element_type copy squeeze".split()
)
REDUCTIONS = frozenset("reduce_sum reduce_max reduce_min reduce_prod".split())
PRODUCTS = ("dot_general", "conv_general_dilated")

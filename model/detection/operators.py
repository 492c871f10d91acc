"""The operators that a detector's program may use: those that compute tensors from tensors.

Operators that read or write files, open connections, call Python, print or load code are not in the list, nor are
custom ones. Names are those of ``inference.json`` (PIR) and of ``inference.pdmodel`` (legacy programs).
"""

_ELEMENTWISE = """
    abs acos acosh add add_n asin asinh assign assign_out assign_value atan atan2 atanh bitwise_and bitwise_not
    bitwise_or bitwise_xor brelu cast ceil celu clip cos cosh divide elementwise_add elementwise_div
    elementwise_floordiv elementwise_max elementwise_min elementwise_mod elementwise_mul elementwise_pow
    elementwise_sub elu equal erf exp expm1 floor floor_divide fmax fmin gelu greater_equal greater_than hard_shrink
    hard_sigmoid hard_swish hardshrink hardsigmoid hardswish hardtanh increment isclose isfinite isfinite_v2 isinf
    isinf_v2 isnan isnan_v2 leaky_relu less_equal less_than log log10 log1p log2 logical_and logical_not logical_or
    logical_xor logit logsigmoid maximum minimum mish multiply not_equal pow prelu reciprocal relu relu6 remainder
    round rsqrt scale selu sigmoid sign silu sin sinh softplus softshrink softsign sqrt square subtract swish tan
    tanh tanh_shrink thresholded_relu trunc where
"""
_SHAPES = """
    arange as_strided broadcast_tensors channel_shuffle concat crop diag diag_embed diag_v2 diagonal empty
    empty_like expand expand_as expand_as_v2 expand_v2 eye fill fill_any fill_any_like fill_constant
    fill_constant_batch_size_like flatten flatten2 flatten_contiguous_range flip full full_batch_size_like
    full_int_array full_like full_with_tensor linspace meshgrid numel one_hot one_hot_v2 ones ones_like pad pad2d
    pad3d pixel_shuffle pixel_unshuffle range range_v2 repeat_interleave repeat_interleave_with_tensor_index reshape
    reshape2 reverse roll shape shape64 share_data shuffle_channel size slice split split_with_num squeeze squeeze2
    stack strided_slice tensor_unfold tile transpose transpose2 tril tril_indices tril_triu triu triu_indices unbind
    unfold unsqueeze unsqueeze2 unstack view_dtype view_shape view_slice zeros zeros_like
"""
_SELECTION = """
    arg_max arg_min argmax argmin argsort bincount gather gather_nd histogram index_add index_elementwise_get
    index_elementwise_put index_elementwise_put_with_tensor index_put index_sample index_select index_select_strided
    kthvalue masked_fill masked_select mode multiplex nonzero put_along_axis scatter scatter_nd_add searchsorted
    set_value set_value_with_tensor take_along_axis top_k top_k_v2 topk unique unique_consecutive where_index
"""
_REDUCTIONS = """
    all allclose amax amin any cummax cummin cumprod cumsum equal_all frobenius_norm is_empty logcumsumexp logsumexp
    max mean mean_all median min norm p_norm prod reduce_all reduce_any reduce_as reduce_max reduce_mean reduce_min
    reduce_prod reduce_sum squared_l2_norm std sum var variance
"""
_PRODUCTS = """
    addmm baddbmm bilinear bmm cross dot einsum fc inverse kron linear linear_v2 matmul matmul_v2
    matmul_with_flatten mul multi_dot mv
"""
_LAYERS = """
    affine_channel affine_grid batch_norm bicubic_interp bicubic_interp_v2 bilinear_interp bilinear_interp_v2 conv2d
    conv2d_transpose conv3d conv3d_transpose deformable_conv deformable_conv_v1 depthwise_conv2d
    depthwise_conv2d_transpose dropout embedding flash_attn fold grid_sample grid_sampler group_norm instance_norm
    interp_antialias label_smooth layer_norm linear_interp linear_interp_v2 log_softmax lookup_table lookup_table_v2
    lp_pool2d lrn max_pool2d_v2 max_pool2d_with_index maxout memory_efficient_attention nearest_interp
    nearest_interp_v2 pool2d pool3d rms_norm softmax sync_batch_norm temporal_shift trilinear_interp
    trilinear_interp_v2
"""
_DETECTION = """
    anchor_generator bipartite_match box_clip box_coder collect_fpn_proposals distribute_fpn_proposals
    generate_proposals generate_proposals_v2 matrix_nms multiclass_nms multiclass_nms3 nms prior_box psroi_pool
    roi_align roi_pool yolo_box yolo_box_head yolo_box_post
"""
_RANDOM = "bernoulli gaussian gaussian_random randint randperm uniform uniform_random truncated_gaussian_random"
_FLOW = """
    array_length array_pop array_read array_to_tensor array_write conditional_block conditional_block_infer
    create_array create_array_like data feed fetch fetch_v2 if lod_array_length memcpy memcpy_d2h memcpy_h2d
    read_from_array select_input select_output shadow_output slice_array slice_array_dense tensor_array_to_tensor
    while write_to_array
"""

COMPUTING = frozenset(
    " ".join((_ELEMENTWISE, _SHAPES, _SELECTION, _REDUCTIONS, _PRODUCTS, _LAYERS, _DETECTION, _RANDOM, _FLOW)).split()
)
"""Names of the operators, without the underscore that marks those which write into their input."""

RANDOM = frozenset(_RANDOM.split())
"""Those that give other numbers each time."""

ENLARGING = frozenset(
    ("broadcast_tensors", "expand", "expand_as", "expand_as_v2", "expand_v2", "repeat_interleave", "tile")
)
"""Those that repeat numbers."""

STRUCTURE = frozenset(
    ("p", "0.combine", "0.slice", "0.split", "0.constant", "2.yield", "2.tuple_push", "2.tuple_pop", "2.stack_create")
)
"""What holds a PIR program together: parameters, lists of values, ends of blocks; written with its dialect's number."""

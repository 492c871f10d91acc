"""A plain SAM in Paddle, layer by layer as Meta's code has it, which the tests export as other people's programs do.

It stands for PaddleX's and PaddleSeg's exporters: the same kinds of layers, created in the same order, a forward of an
image and one prompt. It runs under Paddle 2.6 as well as 3.x, and shares nothing with ``model``, so that agreement with
it means something.
"""

import math
from itertools import pairwise

import paddle
from paddle import nn
from paddle.nn import functional


class MLPBlock(nn.Layer):
    def __init__(self, dim, hidden, act):
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)
        self.act = act

    def forward(self, x):
        return self.lin2(self.act(self.lin1(x)))


class LayerNorm2d(nn.Layer):
    def __init__(self, channels, epsilon=1e-6):
        super().__init__()
        one, zero = nn.initializer.Constant(1.0), nn.initializer.Constant(0.0)
        self.weight = paddle.create_parameter([channels], "float32", default_initializer=one)
        self.bias = paddle.create_parameter([channels], "float32", default_initializer=zero)
        self.epsilon = epsilon

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / paddle.sqrt(variance + self.epsilon)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


def _parameter(shape):
    return paddle.create_parameter(shape, "float32", default_initializer=nn.initializer.Constant(0.0))


class ViTAttention(nn.Layer):
    def __init__(self, dim, heads, side):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = _parameter([2 * side - 1, dim // heads])
        self.rel_pos_w = _parameter([2 * side - 1, dim // heads])

    def forward(self, x):
        _, h, w, c = x.shape
        qkv = self.qkv(x).reshape([-1, h * w, 3, self.heads, c // self.heads]).transpose([2, 0, 3, 1, 4])
        q, k, v = qkv.reshape([3, -1, h * w, c // self.heads]).unbind(0)
        attn = (q * self.scale) @ k.transpose([0, 2, 1])
        attn = self.add_positions(attn, q, (h, w))
        x = functional.softmax(attn, axis=-1) @ v
        x = x.reshape([-1, self.heads, h, w, c // self.heads]).transpose([0, 2, 3, 1, 4]).reshape([-1, h, w, c])
        return self.proj(x)

    def add_positions(self, attn, q, size):
        h, w = size
        rows, columns = self.positions(self.rel_pos_h, h), self.positions(self.rel_pos_w, w)
        q = q.reshape([-1, h, w, q.shape[-1]])
        rel_h = paddle.einsum("bhwc,hkc->bhwk", q, rows)
        rel_w = paddle.einsum("bhwc,wkc->bhwk", q, columns)
        attn = attn.reshape([-1, h, w, h, w]) + rel_h.unsqueeze(-1) + rel_w.unsqueeze(-2)
        return attn.reshape([-1, h * w, h * w])

    def positions(self, rel_pos, side):
        length = 2 * side - 1
        if rel_pos.shape[0] != length:  # made for a larger input
            table = rel_pos.transpose([1, 0]).unsqueeze(0)
            rel_pos = functional.interpolate(table, size=[length], mode="linear", data_format="NCW")[0].transpose(
                [1, 0]
            )
        at = paddle.arange(side).unsqueeze(1) - paddle.arange(side).unsqueeze(0) + side - 1
        return paddle.index_select(rel_pos, at.flatten()).reshape([side, side, -1])


class Block(nn.Layer):
    def __init__(self, dim, heads, hidden, window, rel_pos_side):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, epsilon=1e-6)
        self.attn = ViTAttention(dim, heads, rel_pos_side)
        self.norm2 = nn.LayerNorm(dim, epsilon=1e-6)
        self.mlp = MLPBlock(dim, hidden, functional.gelu)
        self.window = window

    def forward(self, x):
        shortcut, n = self.norm1(x), self.window
        y = shortcut
        if n:
            _, h, w, c = y.shape
            rows, columns = math.ceil(h / n) * n, math.ceil(w / n) * n
            y = functional.pad(y, [0, columns - w, 0, rows - h], data_format="NHWC")
            y = y.reshape([-1, rows // n, n, columns // n, n, c]).transpose([0, 1, 3, 2, 4, 5]).reshape([-1, n, n, c])
            y = self.attn(y)
            y = y.reshape([-1, rows // n, columns // n, n, n, c]).transpose([0, 1, 3, 2, 4, 5])
            y = y.reshape([-1, rows, columns, c])[:, :h, :w, :]
        else:
            y = self.attn(y)
        x = x + y
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Layer):
    def __init__(self, patch, dim):
        super().__init__()
        self.proj = nn.Conv2D(3, dim, patch, stride=patch)

    def forward(self, x):
        return self.proj(x).transpose([0, 2, 3, 1])


class ImageEncoder(nn.Layer):
    def __init__(self, config, rel_pos_grid):
        super().__init__()
        encoder, grid, out = config.image_encoder, config.embedding_size, config.prompt_embed_dim
        dim, window = encoder.embed_dim, encoder.window_size
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        self.pos_embed = _parameter([1, grid, grid, dim])
        self.blocks = nn.LayerList()
        for index in range(encoder.depth):
            spans_all = index in encoder.global_attn_indexes
            side = rel_pos_grid or grid if spans_all else window
            hidden = int(dim * encoder.mlp_ratio)
            self.blocks.append(Block(dim, encoder.num_heads, hidden, 0 if spans_all else window, side))
        self.neck = nn.Sequential(
            nn.Conv2D(dim, out, 1, bias_attr=False),
            LayerNorm2d(out),
            nn.Conv2D(out, out, 3, padding=1, bias_attr=False),
            LayerNorm2d(out),
        )

    def forward(self, x):
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.transpose([0, 3, 1, 2]))


class PositionEmbedding(nn.Layer):
    def __init__(self, features):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", paddle.randn([2, features]))

    def forward(self, coords):
        coords = 2 * math.pi * ((2 * coords - 1) @ self.positional_encoding_gaussian_matrix)
        return paddle.concat([paddle.sin(coords), paddle.cos(coords)], axis=-1)

    def grid(self, side):
        ones = paddle.ones([side, side])
        at = paddle.stack([(ones.cumsum(1) - 0.5) / side, (ones.cumsum(0) - 0.5) / side], axis=-1)
        return self(at).transpose([2, 0, 1]).unsqueeze(0)


class PromptEncoder(nn.Layer):
    def __init__(self, config):
        super().__init__()
        dim, chans = config.prompt_embed_dim, config.mask_in_chans
        self.size, self.grid = config.image_size, config.embedding_size
        self.pe_layer = PositionEmbedding(dim // 2)
        self.point_embeddings = nn.LayerList([nn.Embedding(1, dim) for _ in range(4)])
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2D(1, chans // 4, 2, stride=2),
            LayerNorm2d(chans // 4),
            nn.GELU(),
            nn.Conv2D(chans // 4, chans, 2, stride=2),
            LayerNorm2d(chans),
            nn.GELU(),
            nn.Conv2D(chans, dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def box(self, boxes):
        corners = self.pe_layer((boxes + 0.5).reshape([-1, 2, 2]) / self.size)
        first = corners[:, 0] + self.point_embeddings[2].weight
        second = corners[:, 1] + self.point_embeddings[3].weight
        return paddle.stack([first, second], axis=1)

    def point(self, coords):
        """One positive point per row, (N, 1, 2), with the padding point that Meta adds where there is no box."""
        positive = self.pe_layer((coords + 0.5) / self.size)
        nothing = 0 * positive + self.not_a_point_embed.weight
        return paddle.concat([positive + self.point_embeddings[1].weight, nothing], axis=1)

    def no_mask(self):
        return self.no_mask_embed.weight.reshape([1, -1, 1, 1]).expand([1, -1, self.grid, self.grid])


class Attention(nn.Layer):
    def __init__(self, dim, heads, rate=1):
        super().__init__()
        self.heads, inner = heads, dim // rate
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def split(self, x):
        return x.reshape([x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads]).transpose([0, 2, 1, 3])

    def forward(self, q, k, v):
        q, k, v = self.split(self.q_proj(q)), self.split(self.k_proj(k)), self.split(self.v_proj(v))
        attn = functional.softmax(q @ k.transpose([0, 1, 3, 2]) / math.sqrt(q.shape[-1]), axis=-1)
        out = (attn @ v).transpose([0, 2, 1, 3])
        return self.out_proj(out.reshape([out.shape[0], out.shape[1], -1]))


class TwoWayBlock(nn.Layer):
    def __init__(self, dim, heads, hidden, first):
        super().__init__()
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, hidden, functional.relu)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, 2)
        self.first = first

    def forward(self, queries, keys, query_pe, key_pe):
        if self.first:
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        queries = self.norm1(queries)
        queries = self.norm2(queries + self.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = self.norm4(keys + self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries))
        return queries, keys


class Transformer(nn.Layer):
    def __init__(self, config):
        super().__init__()
        dim, heads = config.prompt_embed_dim, config.decoder_num_heads
        self.layers = nn.LayerList(
            [TwoWayBlock(dim, heads, config.decoder_mlp_dim, not index) for index in range(config.decoder_depth)]
        )
        self.final_attn_token_to_image = Attention(dim, heads, 2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image, image_pe, tokens):
        keys, key_pe = image.flatten(2).transpose([0, 2, 1]), image_pe.flatten(2).transpose([0, 2, 1])
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe)
        queries = queries + self.final_attn_token_to_image(queries + tokens, keys + key_pe, keys)
        return self.norm_final_attn(queries), keys


class MLP(nn.Layer):
    def __init__(self, dim_in, hidden, dim_out, depth):
        super().__init__()
        widths = [dim_in] + [hidden] * (depth - 1) + [dim_out]
        self.layers = nn.LayerList([nn.Linear(a, b) for a, b in pairwise(widths)])

    def forward(self, x):
        for index, layer in enumerate(self.layers):
            x = layer(x) if index == len(self.layers) - 1 else functional.relu(layer(x))
        return x


class MaskDecoder(nn.Layer):
    def __init__(self, config):
        super().__init__()
        dim, self.tokens = config.prompt_embed_dim, config.num_multimask_outputs + 1
        self.transformer = Transformer(config)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self.tokens, dim)
        self.output_upscaling = nn.Sequential(
            nn.Conv2DTranspose(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.Conv2DTranspose(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.LayerList([MLP(dim, dim, dim // 8, 3) for _ in range(self.tokens)])
        self.iou_prediction_head = MLP(dim, config.iou_head_hidden_dim, self.tokens, config.iou_head_depth)

    def forward(self, image, image_pe, sparse):
        tokens = paddle.concat([self.iou_token.weight, self.mask_tokens.weight], axis=0)
        tokens = paddle.concat([tokens.unsqueeze(0).expand([sparse.shape[0], -1, -1]), sparse], axis=1)
        count, (_, dim, side, _) = tokens.shape[0], image.shape
        hidden, keys = self.transformer(image.expand([count, dim, side, side]), image_pe, tokens)
        upscaled = self.output_upscaling(keys.transpose([0, 2, 1]).reshape([-1, dim, side, side]))
        kernels = [mlp(hidden[:, 1 + index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)]
        masks = paddle.stack(kernels, axis=1) @ upscaled.flatten(2)
        return masks.reshape([-1, self.tokens, 4 * side, 4 * side]), self.iou_prediction_head(hidden[:, 0])


class Sam(nn.Layer):
    """The whole network; ``prompt`` is boxes (N, 4) or one positive point per row (N, 1, 2).

    ``rel_pos_grid`` is the embedding size that the relative positions of global blocks were made for, where it is not
    the network's own; ``score`` adds the predicted IoU to the outputs, which keeps its head in the export.
    """

    def __init__(self, config, kind="box", score=False, rel_pos_grid=None):
        super().__init__()
        self.kind, self.score, self.side = kind, score, config.embedding_size
        self.image_encoder = ImageEncoder(config, rel_pos_grid)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)

    def forward(self, img, prompt):
        image = self.image_encoder(img)
        sparse = self.prompt_encoder.box(prompt) if self.kind == "box" else self.prompt_encoder.point(prompt)
        image_pe = self.prompt_encoder.pe_layer.grid(self.side)
        masks, scores = self.mask_decoder(image + self.prompt_encoder.no_mask(), image_pe, sparse)
        return (masks[:, :1], scores[:, :1]) if self.score else masks[:, :1]


def build(config, tensors, **options):
    """Return the network filled with ``tensors`` (Meta's names, Paddle's layout)."""
    network = Sam(config, **options)
    state = {name: paddle.to_tensor(value) for name, value in tensors.items()}
    _, unexpected = network.set_state_dict(state)
    assert not unexpected, unexpected
    network.eval()
    return network


def save(network, config, path):
    """Write ``path``.json or .pdmodel, and ``path``.pdiparams, as the running Paddle writes them."""
    size, prompt = config.image_size, [None, 4] if network.kind == "box" else [None, 1, 2]
    spec = [
        paddle.static.InputSpec([1, 3, size, size], "float32", "img"),
        paddle.static.InputSpec(prompt, "float32", "prompt"),
    ]
    paddle.jit.save(paddle.jit.to_static(network, input_spec=spec, full_graph=True), path)

"""HMR2.0's transformer decoder: one query a frame, names as in the HMR2.0 and HaMeR checkpoints.

Axes    f frames of all clips   q queries (one)   m context tokens   d width of the head
        c channels of a context token   heads e: attention channels, split
Units   rotations as 6D (two columns); camera = weak perspective (s, tx, ty) in the crop
"""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from extpose.model_config import ModelConfig
from extpose.rotations import axis_angle_to_matrix, matrix_to_rot6d

HEAD_NAME = {"smpl": "smpl_head", "mano": "mano_head"}
NUM_ROTATIONS = {"smpl": 24, "mano": 16}
"""Joint rotations with the root."""
_POSE_BUFFER = {"smpl": "init_body_pose", "mano": "init_hand_pose"}


class PreNorm(nn.Module):
    """LayerNorm of the query before `fn`."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, query: Tensor, *context: Tensor) -> Tensor:
        """The context is not normalised here: the backbone's last norm has done it."""
        return self.fn(self.norm(query), *context)


class SelfAttention(nn.Module):
    """Among the queries of one frame."""

    def __init__(self, width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(width, 3 * num_heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(num_heads * head_dim, width))

    def forward(self, query: Float[Tensor, "f q d"]) -> Float[Tensor, "f q d"]:
        """With one query this is a linear map."""
        q, k, v = rearrange(
            self.to_qkv(query), "f q (qkv heads e) -> qkv f heads q e", qkv=3, heads=self.num_heads
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "f heads q e -> f q (heads e)"))


class CrossAttention(nn.Module):
    """From the queries to the backbone's tokens."""

    def __init__(self, width: int, context_width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_kv = nn.Linear(context_width, 2 * num_heads * head_dim, bias=False)
        self.to_q = nn.Linear(width, num_heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(num_heads * head_dim, width))

    def forward(
        self, query: Float[Tensor, "f q d"], context: Float[Tensor, "f m c"]
    ) -> Float[Tensor, "f q d"]:
        """The context may have any length."""
        heads = self.num_heads
        q = rearrange(self.to_q(query), "f q (heads e) -> f heads q e", heads=heads)
        k, v = rearrange(
            self.to_kv(context), "f m (kv heads e) -> kv f heads m e", kv=2, heads=heads
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "f heads q e -> f q (heads e)"))


class FeedForward(nn.Module):
    """Two linear maps; the gaps in the numbering are the reference's dropouts, which are zero."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, width)
        )

    def forward(self, query: Float[Tensor, "f q d"]) -> Float[Tensor, "f q d"]:
        """Exact GELU between."""
        return self.net(query)


class DecoderLayers(nn.Module):
    """Self-attention, cross-attention and feed-forward, each pre-norm and residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, heads, dim = config.head_width, config.head_num_heads, config.head_dim
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(width, SelfAttention(width, heads, dim)),
                    PreNorm(width, CrossAttention(width, config.width, heads, dim)),
                    PreNorm(width, FeedForward(width, config.head_mlp_width)),
                ]
            )
            for _ in range(config.head_depth)
        )

    def forward(
        self, query: Float[Tensor, "f q d"], context: Float[Tensor, "f m c"]
    ) -> Float[Tensor, "f q d"]:
        """No norm after the last layer."""
        for layer in self.layers:
            attend_self, attend_context, feed_forward = cast(nn.ModuleList, layer)
            query = query + attend_self(query)
            query = query + attend_context(query, context)
            query = query + feed_forward(query)
        return query


class TransformerDecoder(nn.Module):
    """The query (the embedding of a zero, or of the estimate so far) and the layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        token_width = {"zero": 1, "mean_shape": sum(readout_sizes(config))}[config.head_token]
        self.to_token_embedding = nn.Linear(token_width, config.head_width)
        self.pos_embedding = nn.Parameter(torch.empty(1, 1, config.head_width))
        self.transformer = DecoderLayers(config)
        # A small query: after the norm, what it reads from the image outweighs the constant.
        nn.init.zeros_(self.to_token_embedding.bias)
        nn.init.trunc_normal_(self.pos_embedding, std=0.02)

    def forward(
        self, token: Float[Tensor, "f token"], context: Float[Tensor, "f m c"]
    ) -> Float[Tensor, "f d"]:
        """One decoded token a frame."""
        query = rearrange(self.to_token_embedding(token), "f d -> f 1 d") + self.pos_embedding
        return self.transformer(query, context)[:, 0]


class PoseHead(nn.Module):
    """Tokens of a frame to pose, shape and camera, as offsets from a mean."""

    init_betas: Tensor
    init_cam: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.head_ief_iters < 1:
            raise ValueError(f"head_ief_iters is {config.head_ief_iters}, at least 1")
        if config.head_token not in ("zero", "mean_shape"):
            raise ValueError(f"unknown head_token {config.head_token!r}, known: zero, mean_shape")
        self.config = config
        self.transformer = TransformerDecoder(config)
        self.decpose, self.decshape, self.deccam = (
            nn.Linear(config.head_width, size) for size in readout_sizes(config)
        )
        self.register_buffer(_POSE_BUFFER[config.body], upright_pose(config.body)[None])
        self.register_buffer("init_betas", torch.zeros(1, 10))
        scale = 0.9 if config.body == "smpl" else 8.0  # the crop is 2 / scale metres wide
        self.register_buffer("init_cam", torch.tensor([[scale, 0.0, 0.0]]))
        for readout in (self.decpose, self.decshape, self.deccam):
            nn.init.xavier_uniform_(readout.weight, gain=0.01)
            nn.init.zeros_(readout.bias)

    def forward(
        self, context: Float[Tensor, "f m c"]
    ) -> tuple[Float[Tensor, "f rot6d"], Float[Tensor, "f 10"], Float[Tensor, "f 3"]]:
        """Rotations (6D, root first), betas, camera: each iteration adds to the one before."""
        init_pose = self.get_buffer(_POSE_BUFFER[self.config.body])
        estimate = torch.cat([init_pose, self.init_betas, self.init_cam], 1)
        estimate = estimate.expand(len(context), -1)
        zero = context.new_zeros(len(context), 1)
        for _ in range(self.config.head_ief_iters):
            token = zero if self.config.head_token == "zero" else estimate
            decoded = self.transformer(token, context)
            readouts = (self.decpose, self.decshape, self.deccam)
            estimate = estimate + torch.cat([readout(decoded) for readout in readouts], 1)
        pose, betas, crop_cam = estimate.split(readout_sizes(self.config), 1)
        return pose, betas, crop_cam


def readout_sizes(config: ModelConfig) -> tuple[int, int, int]:
    """Numbers of a frame: 6D rotations, betas, camera."""
    return 6 * NUM_ROTATIONS[config.body], 10, 3


def upright_pose(body: str) -> Float[Tensor, " rot6d"]:
    """A person who stands upright and faces the camera with lowered arms; a flat hand.

    The models' own axes have y up, the camera's y is down: half a turn about x. In SMPL the left
    arm points along +x, so it is lowered by a negative turn about z.
    """
    with torch.device("cpu"):  # arithmetic on meta tensors loads torch's compiler, for seconds
        axis_angle = torch.zeros(NUM_ROTATIONS[body], 3)
        axis_angle[0, 0] = torch.pi
        if body == "smpl":
            left_shoulder, right_shoulder = 16, 17
            axis_angle[left_shoulder, 2], axis_angle[right_shoulder, 2] = -1.0, 1.0
        return matrix_to_rot6d(axis_angle_to_matrix(axis_angle)).flatten()

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
    """The query (the embedding of a zero) and the layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.to_token_embedding = nn.Linear(1, config.head_width)
        self.pos_embedding = nn.Parameter(torch.empty(1, 1, config.head_width))
        self.transformer = DecoderLayers(config)
        # A small query: after the norm, what it reads from the image outweighs the constant.
        nn.init.zeros_(self.to_token_embedding.bias)
        nn.init.trunc_normal_(self.pos_embedding, std=0.02)

    def forward(self, context: Float[Tensor, "f m c"]) -> Float[Tensor, "f d"]:
        """One decoded token a frame."""
        zero = context.new_zeros(len(context), 1, 1)
        query = self.to_token_embedding(zero) + self.pos_embedding
        return self.transformer(query, context)[:, 0]


class PoseHead(nn.Module):
    """Tokens of a frame to pose, shape and camera, as offsets from a mean."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.body = config.body
        self.transformer = TransformerDecoder(config)
        self.decpose = nn.Linear(config.head_width, 6 * NUM_ROTATIONS[config.body])
        self.decshape = nn.Linear(config.head_width, 10)
        self.deccam = nn.Linear(config.head_width, 3)
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
        """Rotations (6D, root first), betas, camera."""
        token = self.transformer(context)
        mean_pose = self.get_buffer(_POSE_BUFFER[self.body])
        pose = self.decpose(token) + mean_pose
        return pose, self.decshape(token) + self.init_betas, self.deccam(token) + self.init_cam


def upright_pose(body: str) -> Float[Tensor, " rot6d"]:
    """A person who stands upright and faces the camera with lowered arms; a flat hand.

    The models' own axes have y up, the camera's y is down: half a turn about x. In SMPL the left
    arm points along +x, so it is lowered by a negative turn about z.
    """
    axis_angle = torch.zeros(NUM_ROTATIONS[body], 3)
    axis_angle[0, 0] = torch.pi
    if body == "smpl":
        left_shoulder, right_shoulder = 16, 17
        axis_angle[left_shoulder, 2], axis_angle[right_shoulder, 2] = -1.0, 1.0
    return matrix_to_rot6d(axis_angle_to_matrix(axis_angle)).flatten()

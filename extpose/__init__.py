"""ExtPose: 3D humans and hands from video, by extending a pretrained image ViT."""

__version__ = "0.1.0"

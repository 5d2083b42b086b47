"""What a training imports only at its first step: once, before victims are forked."""

import torch
import torch._dynamo  # AdamW and TensorBoard import these at the first start
import torch.utils.tensorboard

from extpose.training.engine import import_deepspeed

import_deepspeed(torch.device("cpu"))

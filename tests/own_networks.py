"""A user's own networks, good and bad, as a recipe names them."""

import torch
from torch import nn

CALLS = []


class Small(nn.Module):
    """(b, 3, S, S) to (b, d)."""

    def __init__(self, dimension):
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, dimension)

    def forward(self, x):
        return self.head(self.norm(self.convolution(x)).relu().mean((2, 3)))


def small(config, input_dimension):
    CALLS.append((config, input_dimension))
    return Small(config.dimension)


def mean_colour(config, input_dimension):
    """How much brighter than a quarter a channel is, without weights."""
    return Function(lambda x: x.mean((2, 3)) - 0.25)


def linear(config, input_dimension):
    return nn.Linear(input_dimension, config.dimension)


def of_one_argument(config):
    return Small(config.dimension)


def not_a_module(config, input_dimension):
    return lambda x: x


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def maps(config, input_dimension):
    return nn.Conv2d(3, config.dimension, 3)


def one_row(config, input_dimension):
    return Function(lambda x: torch.zeros(1, config.dimension))


def too_wide(config, input_dimension):
    return Function(lambda x: torch.zeros(len(x), config.dimension + 1))


def whole_numbers(config, input_dimension):
    return Function(lambda x: torch.zeros(len(x), config.dimension, dtype=torch.int64))


def a_pair(config, input_dimension):
    return Function(lambda x: (x, x))


def other_channels(config, input_dimension):
    return nn.Conv2d(5, 8, 3)


NOT_CALLABLE = 3

"""PointPWC-Net's training step in plain PyTorch, to be timed beside the zoo's.

    python tests/benchmarks/torch_pointpwc.py POINTS

prints the median seconds of a step. Written from the published description: brute-force neighbours
by `cdist` and `topk`, a loop for farthest points, dense layers over concatenated pairs. The loss is
the sum of the mean errors of all levels, the optimiser Adam, as in the zoo.
"""

from __future__ import annotations

import sys
import time

import torch
from torch import nn
from torch.nn.functional import leaky_relu, relu

LEVELS = (2048, 512, 256, 64)  # of 8,192; fewer points have fewer in proportion


def nearest(queries, points, k):
    return torch.cdist(queries, points).topk(min(k, points.shape[1]), largest=False).indices


def rows(values, index):
    batch = torch.arange(len(values)).view(-1, *[1] * (index.dim() - 1))
    return values[batch, index]


def farthest(points, count):
    chosen = torch.zeros(len(points), count, dtype=torch.long)
    apart = torch.full(points.shape[:2], torch.inf)
    last = torch.zeros(len(points), dtype=torch.long)
    for number in range(count):
        chosen[:, number] = last
        here = rows(points, last[:, None])
        apart = torch.minimum(apart, ((points - here) ** 2).sum(-1))
        last = apart.argmax(-1)
    return chosen


def spread(fine, coarse, values):
    index = nearest(fine, coarse, 3)
    apart = (rows(coarse, index) - fine[:, :, None]).norm(dim=-1).clamp_min(1e-10)
    weights = 1 / apart
    weights = weights / weights.sum(-1, keepdim=True)
    return (weights[..., None] * rows(values, index)).sum(2)


class WeightNet(nn.Module):
    def __init__(self, filters):
        super().__init__()
        self.steps = nn.ModuleList([nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, filters)])

    def forward(self, offsets):
        for step in self.steps:
            offsets = relu(step(offsets))
        return offsets


class PointConv(nn.Module):
    def __init__(self, k, entering, filters):
        super().__init__()
        self.k, self.weights = k, WeightNet(16)
        self.linear = nn.Linear(16 * (entering + 3), filters)

    def forward(self, points, features, centres=None):
        centres = points if centres is None else centres
        index = nearest(centres, points, self.k)
        offsets = rows(points, index) - centres[:, :, None]
        grouped = torch.cat([offsets, rows(features, index)], -1)
        summed = torch.einsum("bnkc,bnkw->bncw", grouped, self.weights(offsets))
        return leaky_relu(self.linear(summed.flatten(2)), 0.1)


class CostVolume(nn.Module):
    def __init__(self, entering, filters):
        super().__init__()
        self.first, self.second = nn.Linear(entering, filters), nn.Linear(filters, filters)
        self.across, self.within = WeightNet(filters), WeightNet(filters)

    def forward(self, points, features, others, theirs):
        index = nearest(points, others, 32)
        offsets = rows(others, index) - points[:, :, None]
        own = features[:, :, None].expand(-1, -1, index.shape[-1], -1)
        pairs = torch.cat([own, rows(theirs, index), offsets], -1)
        cost = leaky_relu(self.second(leaky_relu(self.first(pairs), 0.1)), 0.1)
        cost = (self.across(offsets) * cost).sum(2)
        index = nearest(points, points, 32)
        offsets = rows(points, index) - points[:, :, None]
        return (self.within(offsets) * rows(cost, index)).sum(2)


class Head(nn.Module):
    def __init__(self, entering):
        super().__init__()
        self.convs = nn.ModuleList([PointConv(9, entering, 128), PointConv(9, 128, 128)])
        self.units = nn.ModuleList([nn.Linear(128, 128), nn.Linear(128, 64)])
        self.last = nn.Linear(64, 3)

    def forward(self, points, features):
        for conv in self.convs:
            features = conv(points, features)
        for unit in self.units:
            features = leaky_relu(unit(features), 0.1)
        return self.last(features).clamp(-200, 200), features


class PointPWC(nn.Module):
    def __init__(self):
        super().__init__()
        own, feeding = (32, 64, 128, 256, 256), (64, 128, 256, 512)
        context = (32, 32, 64, 64)
        self.start = nn.ModuleList([nn.Linear(3, 32), nn.Linear(32, 32)])
        self.feeds = nn.ModuleList([nn.ModuleList([nn.Linear(32, 64)])])
        for level in (1, 2, 3):
            wide = own[level]
            pair = [nn.Linear(wide, wide), nn.Linear(wide, feeding[level])]
            self.feeds.append(nn.ModuleList(pair))
        self.downs = nn.ModuleList(
            [PointConv(16, feeding[level], own[level + 1]) for level in range(4)]
        )
        self.contexts = nn.ModuleList(
            [nn.Linear(own[level + 1], context[level]) for level in range(4)]
        )
        seen = [own[level] + context[level] for level in range(4)]
        self.costs = nn.ModuleList(
            [CostVolume(2 * seen[level] + 3, own[level]) for level in range(4)]
        )
        self.heads = nn.ModuleList(
            [Head(2 * own[level] + (0 if level == 3 else 67)) for level in range(4)]
        )

    def encode(self, points):
        features = torch.ones_like(points)
        for layer in self.start:
            features = leaky_relu(layer(features), 0.1)
        levels = [(points, features)]
        chosen = [torch.arange(points.shape[1]).expand(len(points), -1)]
        for level in range(4):
            points, features = levels[-1]
            for layer in self.feeds[level]:
                features = leaky_relu(layer(features), 0.1)
            index = farthest(points, levels[0][0].shape[1] * LEVELS[level] // 8192)
            centres = rows(points, index)
            levels.append((centres, self.downs[level](points, features, centres)))
            chosen.append(rows(chosen[-1], index))
        seen = []
        for level in range(4):
            (points, features), (coarse, theirs) = levels[level : level + 2]
            raised = leaky_relu(self.contexts[level](spread(points, coarse, theirs)), 0.1)
            seen.append(torch.cat([features, raised], -1))
        return levels, seen, chosen

    def forward(self, moving, fixed):
        (own, own_seen, chosen), (other, other_seen, _) = self.encode(moving), self.encode(fixed)
        flow = hidden = None
        flows = []
        for level in (3, 2, 1, 0):
            (points, features), (target, _) = own[level], other[level]
            parts = [features]
            if flow is not None:
                coarse = own[level + 1][0]
                flow, hidden = spread(points, coarse, flow), spread(points, coarse, hidden)
                target = target - spread(target, points + flow, flow)
                parts += [hidden]
            cost = self.costs[level](points, own_seen[level], target, other_seen[level])
            parts += [cost] if flow is None else [cost, flow]
            flow, hidden = self.heads[level](points, torch.cat(parts, -1))
            flows.insert(0, flow)
        return flows, chosen


def training_step(moving, fixed, flow):
    """A function that makes one step of Adam on numpy clouds `[b, n, 3]` and their flow."""
    moving, fixed, flow = (torch.from_numpy(each) for each in (moving, fixed, flow))
    network = PointPWC()
    assert sum(weight.numel() for weight in network.parameters()) == 7_717_292
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)

    def step():
        optimiser.zero_grad()
        flows, chosen = network(moving, fixed)
        loss = sum(
            (found - rows(flow, index)).norm(dim=-1).mean()
            for found, index in zip(flows, chosen, strict=False)
        )
        loss.backward()
        optimiser.step()

    return step


if __name__ == "__main__":
    torch.manual_seed(0)
    clouds = torch.randn(2, 1, int(sys.argv[1]), 3).numpy()
    step, seconds = training_step(*clouds, 0.1 * clouds[0]), []
    for _ in range(4):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    print(sorted(seconds[1:])[1])

"""The exactly known motion of a generated lung: the flow of a smooth velocity, and its inverse.

Positions are in the unit box: x from right (-1) to left, y from front (-1) to back, z from the apex
(-1) to the base. The velocity vanishes on the border of the box, so nothing leaves it.
"""

from __future__ import annotations

import numpy as np

STEPS = 12  # of the integration; there and back again it misses its start by less than 1e-8
BUMPS = 10
BLOCK = 4096  # points at once: what is computed for them stays in the processor's caches


class LungMotion:
    """The map from exhalation to inhalation, a diffeomorphism of the unit box.

    It is the flow for unit time of a velocity that does not change: the diaphragm sinks, the chest
    widens to the front and to the sides, and Gaussian bumps make patients differ.

    Args:
        random: from where chance comes.
        amplitude: of the velocity; at 1 landmarks move by some 30 mm in a box of 350.
    """

    def __init__(self, random: np.random.Generator, amplitude: float = 0.75):
        self.amplitude = amplitude
        self._down = 0.36 * random.uniform(0.85, 1.15)
        self._front = 0.16 * random.uniform(0.8, 1.2)
        self._aside = 0.10 * random.uniform(0.8, 1.2)
        self._centres = random.uniform(-0.6, 0.6, (BUMPS, 3))
        self._widths = random.uniform(0.22, 0.40, BUMPS)
        directions = random.normal(size=(BUMPS, 3))
        lengths = 0.055 * random.uniform(0.3, 1.0, BUMPS)
        directions *= (lengths / np.linalg.norm(directions, axis=1))[:, None]
        self._pushes = directions

    def inhaled(self, points: np.ndarray) -> np.ndarray:
        """Where points `[..., 3]` of exhalation are in inhalation."""
        return self._flow(points, 1.0)[0]

    def exhaled(self, points: np.ndarray) -> np.ndarray:
        """Where points `[..., 3]` of inhalation are in exhalation: the exact inverse."""
        return self._flow(points, -1.0)[0]

    def inhaled_with_volume(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`inhaled`, and by how much volume grows there, `[...]`: the determinant of the map."""
        moved, growth = self._flow(points, 1.0)
        return moved, np.exp(growth)

    def _flow(self, points: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Where points are after a time, and the logarithm of how volume grew around them."""
        points = np.asarray(points, dtype=np.float64)
        moved, growth = np.empty((3, points[..., 0].size)), np.empty(points[..., 0].size)
        flat = points.reshape(-1, 3).T
        for start in range(0, growth.size, BLOCK):
            block = slice(start, start + BLOCK)
            moved[:, block], growth[block] = self._flow_of_block(flat[:, block].copy(), time)
        return moved.T.reshape(points.shape), growth.reshape(points.shape[:-1])

    def _flow_of_block(self, points: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Runge and Kutta's rule for points `[3, n]` and the logarithm of the volume."""
        step, growth = time / STEPS, np.zeros(points.shape[1])
        for _ in range(STEPS):
            speed = rate = 0.0
            moved, change, at = 0.0, 0.0, points
            for share, weight in ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6)):
                at = points + share * step * speed
                speed, rate = self._velocity(at)
                moved, change = moved + weight * speed, change + weight * rate
            points, growth = points + step * moved, growth + step * change
        return points, growth

    def _velocity(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The velocity `[3, n]` at points `[3, n]` and its divergence `[n]`."""
        x, y, z = points
        aside = np.abs(x)
        rise, slope = _step((z + 0.75) / 1.5)
        lobe = np.exp(-(((aside - 0.4) / 0.45) ** 2))
        down = self._down * rise * lobe
        divergence = self._down * slope / 1.5 * lobe
        rise, slope = _step(0.5 - y)
        low = np.exp(-(((z - 0.1) / 0.6) ** 2))
        front = -self._front * rise * low
        divergence += self._front * slope * low
        side = np.tanh(x / 0.25)
        rib = self._aside * np.exp(-(((z - 0.2) / 0.6) ** 2) - ((aside - 0.5) / 0.4) ** 2)
        bend = (1 - side**2) / 0.25 - side * 2 * (aside - 0.5) / 0.16 * np.sign(x)
        divergence += rib * bend
        velocity = np.stack([side * rib, front, down])
        for centre, width, push in zip(self._centres, self._widths, self._pushes, strict=True):
            offset = points - centre[:, None]
            bump = np.exp((offset * offset).sum(axis=0) * (-0.5 / width**2))
            velocity += push[:, None] * bump
            divergence -= bump * (push @ offset) / width**2
        # The window that ends the motion at the border of the box.
        square = points * points
        fifth = square * square * points
        sides = np.maximum(1 - fifth * points, 0.0)
        window = sides[0] * sides[1] * sides[2]
        divergence *= window
        for axis, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
            fall = np.where(sides[axis] > 0, -6 * fifth[axis], 0.0)
            divergence += fall * sides[first] * sides[second] * velocity[axis]
        scale = self.amplitude
        return scale * window * velocity, scale * divergence


def _step(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A step from 0 to 1 that is smooth to the second derivative, and its slope."""
    t = np.clip(t, 0.0, 1.0)
    square = t * t
    return square * t * (10 - 15 * t + 6 * square), 30 * square * (1 - t) ** 2

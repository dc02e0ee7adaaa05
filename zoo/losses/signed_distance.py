"""What makes a field the signed distance to points: its loss, term by term."""

from __future__ import annotations

from collections.abc import Mapping

from keras import ops

from zoo.ops.gradients import norm


def signed_distance_terms(x: Mapping, y_pred: Mapping) -> dict:
    """The terms of implicit geometric regularisation (Gropp et al., ICML 2020).

    Any axes may come before those of the points, such as one of several scans.

    Args:
        x: a batch of `zoo.data.surface_batches`, of which `normals` `[..., n, d]` and `trust`
            `[..., n]`, `distance` and `known` `[..., u]`, and `straight` `[..., n]` count where
            they are there.
        y_pred: `surface_value` `[..., n]`, with normals `surface_gradient` `[..., n, d]`,
            `off_surface_value` `[..., m]` and `off_surface_gradient` `[..., m, d]`; with `straight`
            it may have second derivatives along the gradient, `off_surface_bending` `[..., k]`.

    Returns:
        Means as scalars: `surface` of |f|; `eikonal` of (|grad f| - 1)^2 off the surface;
        `normals` of |grad f - n|, where a normal counts with either sign as far as its own is not
        to be trusted; `far` of the error at points whose distance is known; `bending` of the
        second derivatives, without their sign, times how straight the field is to be.
    """
    terms = {
        "surface": ops.mean(ops.abs(y_pred["surface_value"])),
        "eikonal": ops.mean(ops.square(norm(y_pred["off_surface_gradient"]) - 1.0)),
    }
    if "normals" in x:
        apart = norm(y_pred["surface_gradient"] - x["normals"])
        if "trust" in x:
            turned = norm(y_pred["surface_gradient"] + x["normals"])
            apart = x["trust"] * apart + (1.0 - x["trust"]) * ops.minimum(apart, turned)
        terms["normals"] = ops.mean(apart)
    if "distance" in x:
        values = y_pred["off_surface_value"]
        last = ops.shape(values)[-1] - ops.shape(x["distance"])[-1]
        error = ops.abs(values[..., last:] - x["distance"])
        terms["far"] = ops.mean(x["known"] * error)
    if "off_surface_bending" in y_pred:
        bending = ops.mean(ops.abs(y_pred["off_surface_bending"]))
        terms["bending"] = ops.mean(x["straight"]) * bending
    return terms

"""What the pairs of a cohort have in common: one flow for all, and a code of each."""

from __future__ import annotations

import keras
from keras import ops

from zoo.layers.residual_flow import ResidualFlow

SPEED = 10.0  # of codes relative to weights, which Adam moves by the same amount


class FlowCohort(keras.layers.Layer):
    """Codes of the members of a cohort and of one more pair, and the flow that they share.

    The flow that is trained is another layer, so that it can be fitted to a single pair and then
    be set back; here lies its state after the cohort. Codes are learned like weights, without an
    encoder (Park et al., "DeepSDF", CVPR 2019; for flows AD-SVFD, arXiv:2506.00947).

    Args:
        flow: with `codes`, built; its present state is the first that is kept.
        members: pairs of the cohort.
    """

    def __init__(self, flow: ResidualFlow, members: int):
        super().__init__(autocast=False, dtype="float32")
        self.members = members
        self.shared = ResidualFlow.from_config({**flow.get_config(), "name": "shared"})
        self.shared.trainable = False
        self.shared.build()
        self.table = self.add_weight(
            shape=(members + 1, flow.codes),
            initializer=keras.initializers.RandomNormal(stddev=0.5 / SPEED),
            name="codes",
        )
        self.built = True
        self.keep(flow)

    def keep(self, flow: ResidualFlow) -> None:
        """Takes the state of a flow as that of the cohort."""
        self.shared.set_weights(flow.get_weights())

    def give(self, flow: ResidualFlow) -> None:
        """Sets a flow back to the state of the cohort."""
        flow.set_weights(self.shared.get_weights())

    def call(self, member):
        """Codes `[b, codes]` of members `[b, 1]`; the number behind the last is the single pair."""
        chosen = ops.one_hot(member[:, 0], self.members + 1, dtype="float32")
        return SPEED * ops.matmul(chosen, self.table)

    @property
    def single(self):
        """The code `[codes]` of the single pair."""
        return SPEED * self.table[self.members]

    def set_single(self, code) -> None:
        """Gives the single pair a code `[codes]`."""
        row = ops.reshape(ops.convert_to_tensor(code) / SPEED, (1, -1))
        self.table.assign(ops.concatenate([self.table[: self.members], row], axis=0))

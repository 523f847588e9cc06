"""What Keras lacks for training in minutes: Muon for convolutions, faster biases, and a warm-up for any schedule.

Introduced in notebook 06.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="study")
class Muon(keras.optimizers.Muon):
    """Muon (Jordan et al. 2024) for convolution kernels, AdamW at `adam_lr_ratio` of the rate for everything else.

    Keras' own class, whose arguments it takes, hands all that is not a matrix to AdamW. Here a kernel (height, width,
    channels in, channels out) is read as a matrix (height·width·channels in, channels out): each step moves it in the
    nearest orthogonal direction. The kernel keeps its length, the root of the channels out, so that the learning rate
    alone decides how far it turns (Jordan's airbench94_muon); only where a normalisation follows is that harmless.
    """

    def __init__(self, learning_rate=0.2, momentum=0.6, ns_steps=3, adam_lr_ratio=0.05, adam_weight_decay=0.0,
                 weight_decay=None, rms_rate=None, **options):
        super().__init__(
            learning_rate, momentum=momentum, ns_steps=ns_steps, adam_lr_ratio=adam_lr_ratio, rms_rate=rms_rate,
            adam_weight_decay=adam_weight_decay, weight_decay=weight_decay, **options)

    def _should_use_adamw(self, variable):
        return len(variable.shape) != 4

    def _muon_update_step(self, gradient, variable, lr, m):
        self.assign(m, self.momentum * m + gradient)
        matrix = ops.reshape(gradient + self.momentum * m if self.nesterov else m, (-1, variable.shape[-1]))
        step = ops.reshape(self.zeropower_via_newtonschulz5(matrix, self.ns_steps), variable.shape)
        length = ops.sqrt(ops.sum(ops.square(variable))) + self.epsilon
        self.assign(variable, variable * (variable.shape[-1] ** 0.5 / length) - lr * step)


@keras.saving.register_keras_serializable(package="study")
class FastBiasSGD(keras.optimizers.SGD):
    """SGD whose biases and BatchNorm shifts (all vectors) learn `bias_factor` times as fast (Page 2018)."""

    def __init__(self, learning_rate=0.01, bias_factor=64.0, **options):
        super().__init__(learning_rate, **options)
        self.bias_factor = bias_factor

    def update_step(self, gradient, variable, learning_rate):
        """Update one variable in place."""
        factor = self.bias_factor if len(variable.shape) == 1 else 1.0
        super().update_step(gradient, variable, learning_rate * factor)

    def get_config(self):
        """Return what `from_config` needs."""
        return super().get_config() | {"bias_factor": self.bias_factor}


@keras.saving.register_keras_serializable(package="study")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Lets the rate rise from 0 in `steps` steps, then follows `after` (a schedule or a number) from its beginning."""

    def __init__(self, after, steps):
        self.after, self.steps = after, steps

    def __call__(self, step):
        """Return the rate at a step, counted from 0."""
        step = ops.cast(step, "float32")
        after = self.after(ops.maximum(step - self.steps, 0.0)) if callable(self.after) else self.after
        return ops.minimum(step / self.steps, 1.0) * after

    def get_config(self):
        """Return what `from_config` needs."""
        return {"after": self.after, "steps": self.steps}

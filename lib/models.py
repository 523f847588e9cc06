"""Layers that several models share, and the size of a model.

Introduced in notebook 02. Every model takes raw uint8 images: what it needs (scaling, greyscale, resizing) is a layer
inside it, so a saved model can be given a photo as it is.
"""

import math

from lib import project

import keras
from keras import layers


@keras.saving.register_keras_serializable(package="study")
class Grayscale(layers.Layer):
    """Turns (batch, height, width, 3) colour images into (batch, height, width, 1) luminance (ITU-R 601)."""

    def call(self, images):
        """Return the luminance in the range of the input."""
        return keras.ops.image.rgb_to_grayscale(images, data_format="channels_last")

    def compute_output_shape(self, input_shape):
        """Return the input's shape with one channel."""
        return (*input_shape[:-1], 1)


@keras.saving.register_keras_serializable(package="study")
class ReverseChannels(layers.Layer):
    """Turns RGB images (batch, height, width, 3) into BGR, the order in which Caffe's networks were trained."""

    def call(self, images):
        """Return the channels in reverse order."""
        return keras.ops.flip(images, axis=-1)


@keras.saving.register_keras_serializable(package="study")
class BatchNorm(layers.BatchNormalization):
    """Keras' BatchNormalization of feature maps (batch, height, width, channels), with its training step in one piece.

    Keras computes mean, variance and output one after another and in float32. TensorFlow has one operation for all of
    it, which also takes bfloat16, and a small network trains a fifth faster on a processor. Elsewhere it is Keras' own.
    """

    def call(self, inputs, training=None, mask=None):
        """Return normalised feature maps; in training the moving statistics follow those of the batch."""
        if not (training and self.trainable) or keras.backend.backend() != "tensorflow":
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        scale = self.gamma if self.scale else tf.ones_like(self.moving_mean)
        shift = self.beta if self.center else tf.zeros_like(self.moving_mean)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=tf.cast(scale, "float32"), offset=tf.cast(shift, "float32"), mean=[], variance=[],
            epsilon=self.epsilon, is_training=True)
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], "float32")
        variance *= (count - 1) / count  # Keras keeps the mean square, the operation gives the unbiased estimate
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs


def save(model, path):
    """Write a model, without its optimizer, as a `.keras` file, whole or not at all."""
    with project.replacing(path) as temporary:
        keras.Model(model.inputs, model.outputs, name=model.name).save(temporary)


def count_parameters(model):
    """Return {"total_parameters", "trainable_parameters"} of a model as it stands."""
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return {"total_parameters": model.count_params(), "trainable_parameters": trainable}


def count_flops(model):
    """Return the floating-point operations of one forward pass of one image, multiply and add counted as two.

    Counts convolutions and dense layers, in which all but a few per cent of the work is done.
    """
    return sum(_layer_flops(layer) for layer in model._flatten_layers(include_self=False))


def _layer_flops(layer):
    if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
        return 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3])
    if isinstance(layer, layers.SeparableConv2D):
        kernels = math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape)
        return 2 * kernels * math.prod(layer.output.shape[1:3])
    if isinstance(layer, layers.Dense):
        return 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
    return 0

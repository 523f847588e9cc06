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

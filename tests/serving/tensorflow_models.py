"""Models that TensorFlow writes, and TensorFlow Serving's way of running them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

FLOATS = tf.TensorSpec([None, 4], tf.float32)
STRINGS = tf.TensorSpec([None], tf.string)


def as_tensorflow_serving(directory, inputs, signature="serving_default"):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(directory))
        definition = graph.signature_def[signature]
        outputs = {name: info.name for name, info in definition.outputs.items()}
        return session.run(outputs, {definition.inputs[name].name: array for name, array in inputs.items()})


class Numbers(tf.Module):
    """Variables, read in branches, loops and nested functions, of several types."""

    def __init__(self):
        generator = np.random.default_rng(0)
        self.weights = tf.Variable(generator.standard_normal((4, 4)).astype(np.float32))
        self.half = tf.Variable(tf.constant([1.5, 2.5, 3.5, 4.5], tf.bfloat16))
        self.names = tf.Variable([b"a", b"", b"long \0 name"])

    @tf.function(input_signature=[FLOATS])
    def project(self, x):
        return {"y": x @ self.weights}

    @tf.function(input_signature=[FLOATS])
    def branch(self, x):
        return {"y": tf.cond(tf.reduce_sum(x) > 0, lambda: x @ self.weights, lambda: tf.zeros_like(x))}

    @tf.function(input_signature=[FLOATS])
    def loop(self, x):
        for _ in tf.range(3):
            x = x @ self.weights
        return {"y": x, "same": tf.identity(self.weights)}

    @tf.function(input_signature=[FLOATS])
    def narrow(self, x):
        return {"y": x * tf.cast(self.half, tf.float32), "names": tf.identity(self.names)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float64), tf.TensorSpec([None], tf.bool)])
    def kinds(self, scalar, flags):
        return {
            "double": scalar * 2,
            "half": tf.cast(scalar, tf.float16),
            "complex": tf.complex(scalar, scalar),
            "flags": tf.logical_not(flags),
            "int8": tf.cast(flags, tf.int8),
            "uint64": tf.cast(flags, tf.uint64) + (1 << 40),
            "string": tf.strings.as_string(scalar),
        }

    @tf.function(input_signature=[STRINGS])
    def upper(self, s):
        return {"upper": tf.strings.upper(s), "length": tf.strings.length(s)}


class Tables(tf.Module):
    """A vocabulary in an asset, and static tables of strings and of numbers."""

    def __init__(self, vocabulary):
        lookup = tf.lookup
        self.asset = tf.saved_model.Asset(str(vocabulary))
        self.vocabulary = lookup.StaticVocabularyTable(
            lookup.TextFileInitializer(
                self.asset, tf.string, lookup.TextFileIndex.WHOLE_LINE, tf.int64, lookup.TextFileIndex.LINE_NUMBER
            ),
            num_oov_buckets=1,
        )
        self.strings = lookup.StaticHashTable(
            lookup.KeyValueTensorInitializer([b"one", b"two"], [b"eins", b"zwei"]), default_value=b"?"
        )
        self.numbers = lookup.StaticHashTable(
            lookup.KeyValueTensorInitializer(tf.constant([1, 2], tf.int64), tf.constant([10.5, 20.5])), -1.0
        )
        self.changing = lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.changing.insert(tf.constant([b"kept"]), tf.constant([7], tf.int64))

    @tf.function(input_signature=[STRINGS])
    def words(self, words):
        return {
            "ids": self.vocabulary.lookup(words),
            "german": self.strings.lookup(words),
            "numbers": self.numbers.lookup(self.vocabulary.lookup(words)),
            "changing": self.changing.lookup(words),
            "asset": tf.io.read_file(self.asset),
        }

"""What a network makes of an image before it answers: the features in front of its last layer, and a map of them.

Introduced in notebook 05.
"""

from lib import evaluation

import keras
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors


def features(model, images):
    """Return what goes into the last layer of a flat model for images (n, height, width, channels): (n, numbers)."""
    vectors = evaluation.predict(keras.Model(model.inputs, model.layers[-1].input), images)
    return vectors.reshape(len(vectors), -1)


def agreement(vectors, labels):
    """Return the share, 0 to 1, of vectors (n, numbers) whose nearest neighbour has the same label (n,)."""
    nearest = NearestNeighbors(n_neighbors=1).fit(vectors).kneighbors(return_distance=False)[:, 0]
    return float((labels == labels[nearest]).mean())


def flat_map(vectors, seed=0):
    """Return points (n, 2) that keep neighbours of vectors (n, numbers) together, of at least four of them.

    t-SNE (van der Maaten & Hinton 2008) after a PCA to 50 numbers, as its authors advise. Near means alike; how far
    apart two clusters lie, and how large they are, means nothing.
    """
    fewer = PCA(min(50, *vectors.shape), random_state=seed).fit_transform(vectors)
    return TSNE(perplexity=min(30, (len(vectors) - 1) / 3), init="pca", random_state=seed).fit_transform(fewer)

"""FOLDER IMAGES EPOCHS BATCH: softmax regression of MNIST, images as bytes in .npy files; rank 0 leaves the values."""

import sys

import numpy as np

import ps
from tests.integration.processes.stage import leave
from tests.integration.test_mnist import SOFTMAX, gradients, initial_values

images, labels = np.load(f"{sys.argv[2]}/images.npy", mmap_mode="r"), np.load(f"{sys.argv[2]}/labels.npy")
epochs, batch = map(int, sys.argv[3:5])

with ps.connect() as client:
    client.register(initial_values(SOFTMAX, client.seed))
    for x, y in ps.data.shard((images, labels), client, batch=batch, epochs=epochs):
        standard = (x / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
        client.push(gradients(client.pull(), standard, y), weight=len(y))
        client.tick()
    client.barrier()  # who leaves early leaves a larger share of the rate to the others
    if client.rank == 0:
        leave("values", **client.pull())

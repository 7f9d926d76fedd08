"""From a folder of images without labels to a backbone in your own program.

Usage: python examples/own_photos.py FOLDER RUN [EPOCHS]
"""

import sys

import torch

import coterie

folder, run = sys.argv[1:3]
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else None

coterie.pretrain("swav", folder, out=run, epochs=epochs)  # stopped? the same line goes on
written = coterie.embed(run, folder, f"{run}/embeddings.parquet")
print(f"{written} embeddings in {run}/embeddings.parquet")

backbone = coterie.load_backbone(run)  # an ordinary torch module, in evaluation mode
about = coterie.describe_backbone(run)  # its size, mean and deviation
with torch.inference_mode():
    features = backbone(torch.zeros(1, about.backbone.channels, about.image_size, about.image_size))
print(f"{about.backbone.name}: {features.shape[1]} features an image")

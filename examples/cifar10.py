"""CIFAR-10 from parquet files: pretrain without labels, then judge with them.

Usage: python examples/cifar10.py FOLDER_WITH_train.parquet_AND_test.parquet RUN [EPOCHS]
"""

import sys

import coterie

folder, run = sys.argv[1:3]
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 200
train, test = f"{folder}/train.parquet", f"{folder}/test.parquet"

coterie.pretrain("swav", train, out=run, epochs=epochs)
figures = coterie.evaluate(run, train, test)
print(f"kNN (k = 200, T = 0.1): {figures['knn']['k200_t0.1_top1']:.1f} % after {epochs} epochs")

"""Trains an image classifier with attention supervision; `python train.py --help` says how."""

from sfocus_tf.training.command import main

if __name__ == "__main__":
    main()

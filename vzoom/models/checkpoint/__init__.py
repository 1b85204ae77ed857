"""The files of a checkpoint: found, held against the model, read to where the weights stay, compared again."""

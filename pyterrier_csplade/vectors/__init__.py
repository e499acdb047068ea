"""What a sparse vector is: contract, vocabulary, impacts, matrices, pruning."""

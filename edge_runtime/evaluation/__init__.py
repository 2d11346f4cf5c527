"""Scores of a trained encoder, features of pictures by it, and its export as a file."""

from edge_runtime.evaluation.embedding import Embedding, embed
from edge_runtime.evaluation.encoder_facts import encoder_metadata, example_of_use
from edge_runtime.evaluation.encoder_file import export_encoder
from edge_runtime.evaluation.features import Features, extract_features
from edge_runtime.evaluation.features_file import embedding_facts, save_embedding
from edge_runtime.evaluation.knn import knn_accuracy
from edge_runtime.evaluation.linear import linear_accuracy
from edge_runtime.evaluation.scores import Accuracies, Scores, evaluate
from edge_runtime.evaluation.trained import TrainedState, open_trained

__all__ = [
    "Accuracies",
    "Embedding",
    "Features",
    "Scores",
    "TrainedState",
    "embed",
    "embedding_facts",
    "encoder_metadata",
    "evaluate",
    "example_of_use",
    "export_encoder",
    "extract_features",
    "knn_accuracy",
    "linear_accuracy",
    "open_trained",
    "save_embedding",
]

"""Which losses serve which task, and the words by which people ask for it."""

from typing import NamedTuple

__all__ = ["TASKS", "Task"]


class Task(NamedTuple):
    name: str
    # Other words for it, between commas. All words of a phrase must be in a question for it to match.
    also: str
    # Functions and why they serve, the one to try first in front.
    losses: tuple[tuple[str, str], ...]

    @property
    def phrases(self) -> list[str]:
        return [self.name, *self.also.split(", ")]


# From the general to the special: where two tasks match a question equally well, the later one is meant.
TASKS: tuple[Task, ...] = (
    Task(
        name="classification",
        also="classes, classifier, multi class, category, softmax, sentiment, emotion, intent, one label, images",
        losses=(
            ("cross_entropy", "one class of C for each sample, from raw scores and class indices"),
            ("nll_loss", "the same where the model already ends in a log_softmax"),
            ("multi_margin_loss", "margins and not probabilities: no gradient once the true class leads by the margin"),
        ),
    ),
    Task(
        name="regression",
        also="number, price, forecast, forecasting, time series, continuous, least squares, diffusion, noise "
        "prediction",
        losses=(
            ("mse_loss", "the usual start: its best answer is the mean"),
            ("huber_loss", "the next to try: squared near 0, linear where a target is far off"),
            ("l1_loss", "its best answer is the median"),
        ),
    ),
    Task(
        name="binary classification",
        also="binary, two classes, yes or no, spam, fraud, churn, click, link prediction",
        losses=(
            ("binary_cross_entropy_with_logits", "one score for each sample; above 0 means yes"),
            ("cross_entropy", "the same number from two scores for each sample and a class index"),
            ("soft_margin_loss", "the same number for labels of −1 and 1"),
            ("binary_cross_entropy", "where the model already ends in a sigmoid"),
        ),
    ),
    Task(
        name="multi-label classification",
        also="multilabel, several labels, tags, attributes, genres, one vs rest",
        losses=(
            ("binary_cross_entropy_with_logits", "each label is a yes or no of its own"),
            ("multilabel_soft_margin_loss", "the same, averaged over the labels of a sample first"),
            ("multilabel_margin_loss", "ranks the labels of a sample above the others, without probabilities"),
        ),
    ),
    Task(
        name="imbalanced classes",
        also="imbalance, unbalanced, rare class, rare, class weights, anomaly detection, anomaly",
        losses=(
            ("cross_entropy", "weight=N / (C · samples of the class) makes every class count as much"),
            ("binary_cross_entropy_with_logits", "pos_weight=negatives / positives does it for a yes or no"),
        ),
    ),
    Task(
        name="segmentation",
        also="semantic segmentation, pixels, pixel classes, masks, voxels, u net, unet",
        losses=(
            ("cross_entropy", "one class for each pixel: input (N, C, H, W), target (N, H, W); ignore_index for void"),
            ("binary_cross_entropy_with_logits", "foreground against background, or classes that overlap"),
        ),
    ),
    Task(
        name="object detection",
        also="detection, detector, bounding boxes, boxes, anchors, box regression",
        losses=(
            ("smooth_l1_loss", "the four numbers of a box; beta sets where an error counts as an outlier"),
            ("cross_entropy", "the class of a box, background among the classes"),
            ("binary_cross_entropy_with_logits", "a score for each class and none for background, or for any object"),
        ),
    ),
    Task(
        name="language model",
        also="language modelling, language modeling, llm, next token, tokens, text generation, gpt, vocabulary, "
        "translation, summarization, summarisation, captioning, captions, seq2seq, causal",
        losses=(
            ("cross_entropy", "the next token: logits (N·T, C), targets shifted by one; ignore_index for padding"),
            ("linear_cross_entropy", "the same with the last layer inside, for a large vocabulary"),
        ),
    ),
    Task(
        name="token classification",
        also="named entities, named entity recognition, ner, part of speech, pos tagging, tagging, sequence "
        "labelling, sequence labeling",
        losses=(
            ("cross_entropy", "one class for each token: input (N, C, T), target (N, T); ignore_index for padding"),
        ),
    ),
    Task(
        name="sequence classification",
        also="speech recognition, speech, asr, transcription, handwriting, ocr, unaligned, alignment, phonemes",
        losses=(
            ("ctc_loss", "labels in order, fewer than the frames, and no one knows which frame is which"),
            ("cross_entropy", "where each frame has its label, or a decoder gives one token after the other"),
        ),
    ),
    Task(
        name="regression with outliers",
        also="outliers, outlier, robust, robust regression, heavy tails, median, noisy targets",
        losses=(
            ("huber_loss", "an error beyond delta counts linearly and not squared"),
            ("l1_loss", "every error counts linearly: its best answer is the median"),
            ("smooth_l1_loss", "huber_loss divided by its beta, so that the slope beyond it is 1"),
        ),
    ),
    Task(
        name="uncertainty",
        also="variance, heteroscedastic, confidence, confidence interval, error bars, how sure, probabilistic "
        "regression, regression with uncertainty, aleatoric",
        losses=(
            ("gaussian_nll_loss", "the model says a mean and a variance; both are trained"),
            ("mse_loss", "where the variance is the same everywhere"),
        ),
    ),
    Task(
        name="counts",
        also="count, counting, poisson, events, visits, rate, number of events",
        losses=(
            ("poisson_nll_loss", "whole numbers from 0: the model says the logarithm of their rate"),
            ("mse_loss", "where the counts are large and vary little"),
        ),
    ),
    Task(
        name="reconstruction",
        also="autoencoder, restoration, super resolution, denoising, depth, depth estimation, image to image, "
        "inpainting, spectrogram, text to speech",
        losses=(
            ("l1_loss", "sharper pictures than the squared error, which prefers the mean of what is possible"),
            ("mse_loss", "where the noise is Gaussian, or the score is a signal-to-noise ratio"),
            ("binary_cross_entropy_with_logits", "for pixels in [0, 1] and a decoder without a sigmoid"),
        ),
    ),
    Task(
        name="distributions",
        also="distribution, distillation, teacher, student, soft labels, soft targets, kl divergence, knowledge "
        "distillation, mixup",
        losses=(
            ("kl_div", "from one distribution to another; reduction='batchmean' is the mean over samples"),
            ("cross_entropy", "takes class probabilities as the target, from raw scores: the same gradient"),
        ),
    ),
    Task(
        name="ranking",
        also="rank, learning to rank, preferences, preference, pairwise, recommendation, recommender, reward "
        "model, which is better",
        losses=(
            ("margin_ranking_loss", "the score of the better of two must lead by the margin"),
            ("soft_margin_loss", "on the difference of two scores: the logistic loss of a preference"),
        ),
    ),
    Task(
        name="embedding",
        also="embeddings, retrieval, semantic search, search, similarity, metric learning, contrastive, face "
        "recognition, face, re identification, triplets, sentence vectors, info nce",
        losses=(
            ("triplet_margin_loss", "an anchor, one that is alike and one that is not"),
            ("cosine_embedding_loss", "pairs that are alike or not, whatever the length of the vectors"),
            ("info_nce", "each of a batch against all others, or against negatives: no triplets to be chosen"),
            ("triplet_margin_with_distance_loss", "triplets under a distance of your own"),
        ),
    ),
    Task(
        name="image and text pairs",
        also="clip, siglip, vision language, text image, zero shot",
        losses=(
            ("clip_loss", "each image finds its text among those of the batch, and each text its image"),
            ("siglip_loss", "each pair is a yes or no of its own, which also serves small batches"),
        ),
    ),
    Task(
        name="same or different",
        also="siamese, verification, pairs, signature, duplicates, distances, distance",
        losses=(
            ("hinge_embedding_loss", "distances of pairs: small where alike, at least the margin where not"),
            ("cosine_embedding_loss", "the same for vectors, by their angle"),
        ),
    ),
    Task(
        name="reinforcement learning",
        also="q learning, value function, dqn, policy gradient, temporal difference, actor critic",
        losses=(
            ("huber_loss", "values: an early estimate that is far off must not rule the gradient"),
            ("cross_entropy", "policies: the action as the class; multiply the unreduced losses by the advantage"),
        ),
    ),
    Task(
        name="generative adversarial network",
        also="gan, discriminator, adversarial, real or fake",
        losses=(("binary_cross_entropy_with_logits", "the discriminator says real or fake in one score"),),
    ),
)

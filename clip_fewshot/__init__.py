"""Learning from a few labelled pictures, and knowing what you have never seen.

Names are imported when first used, so that ``import clip_fewshot`` and every ``--help`` cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip_fewshot.backbones.architectures import ARCHITECTURES as ARCHITECTURES
    from clip_fewshot.backbones.architectures import CLIPConfig as CLIPConfig
    from clip_fewshot.backbones.backbone import Backbone as Backbone
    from clip_fewshot.backbones.backbone import build_backbone as build_backbone
    from clip_fewshot.backbones.clip import load_backbone as load_backbone
    from clip_fewshot.backbones.encoder_tower import Parts as Parts
    from clip_fewshot.backbones.encoder_tower import Pool as Pool
    from clip_fewshot.backbones.encoders import ImageEncoder as ImageEncoder
    from clip_fewshot.backbones.encoders import TextEncoder as TextEncoder
    from clip_fewshot.backbones.folder import save_backbone as save_backbone
    from clip_fewshot.backbones.pair import PairBackbone as PairBackbone
    from clip_fewshot.backbones.pretrained_text import JsonTokenizer as JsonTokenizer
    from clip_fewshot.backbones.pretrained_text import load_text_encoder as load_text_encoder
    from clip_fewshot.backbones.tokenizer import tokenize as tokenize
    from clip_fewshot.backbones.tower import CutState as CutState
    from clip_fewshot.backbones.tower import Placed as Placed
    from clip_fewshot.backbones.tower import Suffix as Suffix
    from clip_fewshot.backbones.tower import Tower as Tower
    from clip_fewshot.config import FewShotConfig as FewShotConfig
    from clip_fewshot.config import option as option
    from clip_fewshot.config import without_password as without_password
    from clip_fewshot.conformal.calibration import Calibrated as Calibrated
    from clip_fewshot.conformal.false_discoveries import benjamini_hochberg as benjamini_hochberg
    from clip_fewshot.conformal.false_discoveries import storey as storey
    from clip_fewshot.conformal.stream import StreamRanks as StreamRanks
    from clip_fewshot.conformal.stream import Watch as Watch
    from clip_fewshot.conformal.stream import first_alarms as first_alarms
    from clip_fewshot.contrastive.distillation import SelfDistillation as SelfDistillation
    from clip_fewshot.contrastive.distributed.spark import embed_on_spark as embed_on_spark
    from clip_fewshot.contrastive.distributed.spark import on_spark as on_spark
    from clip_fewshot.contrastive.distributed.torchrun import join_world as join_world
    from clip_fewshot.contrastive.distributed.world import Alone as Alone
    from clip_fewshot.contrastive.distributed.world import World as World
    from clip_fewshot.contrastive.finetuning import FineTuning as FineTuning
    from clip_fewshot.contrastive.finetuning import count_parameters as count_parameters
    from clip_fewshot.contrastive.finetuning import merged as merged
    from clip_fewshot.contrastive.finetuning import tunable as tunable
    from clip_fewshot.contrastive.gradients import Objective as Objective
    from clip_fewshot.contrastive.gradients import PairModel as PairModel
    from clip_fewshot.contrastive.gradients import contrastive_gradients as contrastive_gradients
    from clip_fewshot.contrastive.objectives import identity_objective as identity_objective
    from clip_fewshot.contrastive.objectives import symmetric_objective as symmetric_objective
    from clip_fewshot.contrastive.options import ContrastiveOptions as ContrastiveOptions
    from clip_fewshot.contrastive.options import paper_options as paper_options
    from clip_fewshot.contrastive.paired import EpochReport as EpochReport
    from clip_fewshot.contrastive.paired import PairedOptions as PairedOptions
    from clip_fewshot.contrastive.paired import train_paired as train_paired
    from clip_fewshot.contrastive.replayed import replayed_blocks as replayed_blocks
    from clip_fewshot.contrastive.replayed import replayed_pictures as replayed_pictures
    from clip_fewshot.contrastive.trainer import StepReport as StepReport
    from clip_fewshot.contrastive.trainer import train_contrastive as train_contrastive
    from clip_fewshot.contrastive.tuned_files import load_tuned as load_tuned
    from clip_fewshot.contrastive.tuned_files import save_tuned as save_tuned
    from clip_fewshot.contrastive.validation import Validation as Validation
    from clip_fewshot.data.builtin import raw_pixels as raw_pixels
    from clip_fewshot.data.captions import TEMPLATES as TEMPLATES
    from clip_fewshot.data.captions import CaptionGenerator as CaptionGenerator
    from clip_fewshot.data.collect import join as join
    from clip_fewshot.data.collect import picture_paths as picture_paths
    from clip_fewshot.data.collect import read_images as read_images
    from clip_fewshot.data.dataset import ImageDataset as ImageDataset
    from clip_fewshot.data.names import shown as shown
    from clip_fewshot.data.pairs.batch import PairBatch as PairBatch
    from clip_fewshot.data.pairs.batch import PairSource as PairSource
    from clip_fewshot.data.pairs.batch import caption_ids as caption_ids
    from clip_fewshot.data.pairs.captioned import CaptionedStream as CaptionedStream
    from clip_fewshot.data.pairs.loader import LoaderSource as LoaderSource
    from clip_fewshot.data.pairs.split import split_pairs as split_pairs
    from clip_fewshot.data.pairs.stream import PairStream as PairStream
    from clip_fewshot.data.pixels import pixel_batches as pixel_batches
    from clip_fewshot.data.read import read_dataset as read_dataset
    from clip_fewshot.data.sampling import OpenWorldSplit as OpenWorldSplit
    from clip_fewshot.data.sampling import draw_support as draw_support
    from clip_fewshot.data.sampling import split_open_world as split_open_world
    from clip_fewshot.discovery import DISCOVERERS as DISCOVERERS
    from clip_fewshot.discovery import Discovery as Discovery
    from clip_fewshot.discovery import discover_classes as discover_classes
    from clip_fewshot.discovery import semi_supervised_kmeans as semi_supervised_kmeans
    from clip_fewshot.discovery.ward_tree import ward_tree as ward_tree
    from clip_fewshot.errors import ArtifactError as ArtifactError
    from clip_fewshot.errors import ClipFewShotError as ClipFewShotError
    from clip_fewshot.errors import DataError as DataError
    from clip_fewshot.errors import DivergedError as DivergedError
    from clip_fewshot.errors import ResourceError as ResourceError
    from clip_fewshot.errors import UsageError as UsageError
    from clip_fewshot.evaluation.intervals import interval as interval
    from clip_fewshot.evaluation.intervals import paired_difference as paired_difference
    from clip_fewshot.evaluation.intervals import statistic_difference as statistic_difference
    from clip_fewshot.evaluation.intervals import statistic_interval as statistic_interval
    from clip_fewshot.evaluation.metrics import ari as ari
    from clip_fewshot.evaluation.metrics import aupr as aupr
    from clip_fewshot.evaluation.metrics import auroc as auroc
    from clip_fewshot.evaluation.metrics import clustering_accuracy as clustering_accuracy
    from clip_fewshot.evaluation.metrics import det_curve as det_curve
    from clip_fewshot.evaluation.metrics import eer as eer
    from clip_fewshot.evaluation.metrics import fpr95 as fpr95
    from clip_fewshot.evaluation.metrics import gcd_accuracy as gcd_accuracy
    from clip_fewshot.evaluation.metrics import gcd_hits as gcd_hits
    from clip_fewshot.evaluation.metrics import macro_f1 as macro_f1
    from clip_fewshot.evaluation.metrics import nmi as nmi
    from clip_fewshot.evaluation.metrics import per_class_table as per_class_table
    from clip_fewshot.evaluation.metrics import rates_at as rates_at
    from clip_fewshot.evaluation.metrics import weighted_f1 as weighted_f1
    from clip_fewshot.features.encode import encode_images as encode_images
    from clip_fewshot.features.encode import encode_texts as encode_texts
    from clip_fewshot.features.encode import image_prefix as image_prefix
    from clip_fewshot.features.prefix import Prefix as Prefix
    from clip_fewshot.features.prefix import replay as replay
    from clip_fewshot.features.prefix import run_prefix as run_prefix
    from clip_fewshot.features.table import embed_files as embed_files
    from clip_fewshot.features.table import not_embedded as not_embedded
    from clip_fewshot.features.table import read_features as read_features
    from clip_fewshot.features.table import write_features as write_features
    from clip_fewshot.features.texts import class_texts as class_texts
    from clip_fewshot.few_shot.approach import APPROACHES as APPROACHES
    from clip_fewshot.few_shot.approach import Approach as Approach
    from clip_fewshot.few_shot.approach import Point as Point
    from clip_fewshot.few_shot.approach import Range as Range
    from clip_fewshot.few_shot.classifier import FewShotClassifier as FewShotClassifier
    from clip_fewshot.few_shot.cross_validation import Workbench as Workbench
    from clip_fewshot.few_shot.search.generation import Evaluate as Evaluate
    from clip_fewshot.few_shot.search.space import SearchSpace as SearchSpace
    from clip_fewshot.few_shot.search.study import StudyPlan as StudyPlan
    from clip_fewshot.few_shot.search.study import run_study as run_study
    from clip_fewshot.few_shot.select import TrialRecord as TrialRecord
    from clip_fewshot.few_shot.trainer import SupportData as SupportData
    from clip_fewshot.few_shot.trainer import TrainSettings as TrainSettings
    from clip_fewshot.few_shot.trainer import balanced_batches as balanced_batches
    from clip_fewshot.few_shot.trainer import tune as tune
    from clip_fewshot.geometry import margin_logits as margin_logits
    from clip_fewshot.heads.linear import LinearHead as LinearHead
    from clip_fewshot.heads.zero_shot import ZeroShotHead as ZeroShotHead
    from clip_fewshot.heads.zero_shot import zero_shot_weights as zero_shot_weights
    from clip_fewshot.losses.cross_entropy import cross_entropy as cross_entropy
    from clip_fewshot.losses.distillation import sinkhorn as sinkhorn
    from clip_fewshot.losses.distillation import transport_targets as transport_targets
    from clip_fewshot.losses.matched import matched_cross_entropy as matched_cross_entropy
    from clip_fewshot.losses.matched import matched_floor as matched_floor
    from clip_fewshot.novelty import CLASSFUL as CLASSFUL
    from clip_fewshot.novelty import DETECTORS as DETECTORS
    from clip_fewshot.novelty import TEXTUAL as TEXTUAL
    from clip_fewshot.novelty import EnergyDetector as EnergyDetector
    from clip_fewshot.novelty import KNNDetector as KNNDetector
    from clip_fewshot.novelty import LOFDetector as LOFDetector
    from clip_fewshot.novelty import MahalanobisDetector as MahalanobisDetector
    from clip_fewshot.novelty import MaxLogitDetector as MaxLogitDetector
    from clip_fewshot.novelty import MaxSoftmaxDetector as MaxSoftmaxDetector
    from clip_fewshot.novelty import MCMDetector as MCMDetector
    from clip_fewshot.novelty import NegativeLabelsDetector as NegativeLabelsDetector
    from clip_fewshot.novelty import RankAverageDetector as RankAverageDetector
    from clip_fewshot.novelty import RelativeMahalanobisDetector as RelativeMahalanobisDetector
    from clip_fewshot.novelty import build_detector as build_detector
    from clip_fewshot.novelty import mine_negatives as mine_negatives
    from clip_fewshot.open_world.add_class import Extension as Extension
    from clip_fewshot.open_world.add_class import Naming as Naming
    from clip_fewshot.open_world.answers import Answer as Answer
    from clip_fewshot.open_world.classifier import OpenWorldClassifier as OpenWorldClassifier
    from clip_fewshot.open_world.feature_spaces import DEPTHS as DEPTHS
    from clip_fewshot.open_world.groups import Group as Group
    from clip_fewshot.open_world.name_suggestions import Known as Known
    from clip_fewshot.open_world.name_suggestions import Suggestions as Suggestions
    from clip_fewshot.open_world.name_suggestions import suggest_names as suggest_names
    from clip_fewshot.open_world.nouns import nouns as nouns
    from clip_fewshot.open_world.rejector import Rejector as Rejector
    from clip_fewshot.open_world.rejector import fit_rejector as fit_rejector
    from clip_fewshot.open_world.select_detector import NoveltyChoice as NoveltyChoice
    from clip_fewshot.open_world.select_detector import choose_novelty as choose_novelty
    from clip_fewshot.open_world.sight import Sight as Sight
    from clip_fewshot.open_world.store.decisions import Applied as Applied
    from clip_fewshot.open_world.store.ingesting import Ingested as Ingested
    from clip_fewshot.open_world.store.queries import Status as Status
    from clip_fewshot.open_world.store.review import Review as Review
    from clip_fewshot.open_world.store.store import Store as Store
    from clip_fewshot.open_world.store.watching import Watched as Watched
    from clip_fewshot.open_world.store.watching import watch as watch
    from clip_fewshot.optim.adamw import AdamW as AdamW
    from clip_fewshot.optim.adamw import parameter_groups as parameter_groups
    from clip_fewshot.optim.adamw import warmup_cosine as warmup_cosine
    from clip_fewshot.pipeline import Progress as Progress
    from clip_fewshot.pipeline import output_folder as output_folder
    from clip_fewshot.pipeline import resumed as resumed
    from clip_fewshot.pipeline import run_few_shot as run_few_shot
    from clip_fewshot.plots import density_panels as density_panels
    from clip_fewshot.plots import det_curves as det_curves
    from clip_fewshot.plots import embedding_plot as embedding_plot
    from clip_fewshot.plots import modality_gap as modality_gap
    from clip_fewshot.plots import shots_panels as shots_panels
    from clip_fewshot.plots import spread as spread
    from clip_fewshot.plots.methods import display_name as display_name
    from clip_fewshot.plots.methods import ordered as ordered
    from clip_fewshot.plots.views import EmbeddingView as EmbeddingView
    from clip_fewshot.plots.views import ShotPoint as ShotPoint
    from clip_fewshot.probes.cache import CacheProbe as CacheProbe
    from clip_fewshot.probes.logistic import LinearProbe as LinearProbe
    from clip_fewshot.probes.prototype import PrototypeProbe as PrototypeProbe
    from clip_fewshot.protocol.refits import Prepared as Prepared
    from clip_fewshot.protocol.refits import Task as Task
    from clip_fewshot.protocol.refits import prepare as prepare
    from clip_fewshot.report.grid import GridCell as GridCell
    from clip_fewshot.report.grid import picture_grid as picture_grid
    from clip_fewshot.report.headline import headline_table as headline_table
    from clip_fewshot.report.review import ReviewView as ReviewView
    from clip_fewshot.report.review import render_review as render_review
    from clip_fewshot.report.review import review_view as review_view
    from clip_fewshot.report.review import suggestions_for as suggestions_for
    from clip_fewshot.runtime.artifacts import artifact_kind as artifact_kind
    from clip_fewshot.runtime.device import resolve_device as resolve_device
    from clip_fewshot.runtime.environment import describe_environment as describe_environment
    from clip_fewshot.runtime.files import cache_root as cache_root
    from clip_fewshot.runtime.files import read_json as read_json
    from clip_fewshot.runtime.files import write_bytes as write_bytes
    from clip_fewshot.runtime.files import write_json as write_json
    from clip_fewshot.runtime.files import write_text as write_text
    from clip_fewshot.runtime.rng import generator as generator
    from clip_fewshot.runtime.rng import torch_seeded as torch_seeded
    from clip_fewshot.tuning.last_layers import describe_last_layers as describe_last_layers
    from clip_fewshot.tuning.last_layers import last_layers as last_layers
    from clip_fewshot.tuning.prompts import describe_prompts as describe_prompts
    from clip_fewshot.tuning.prompts import load_prompts as load_prompts
    from clip_fewshot.tuning.prompts import prompted as prompted
    from clip_fewshot.tuning.prompts import save_prompts as save_prompts
    from clip_fewshot.types import BoolArray as BoolArray
    from clip_fewshot.types import EvalResult as EvalResult
    from clip_fewshot.types import FeatureSet as FeatureSet
    from clip_fewshot.types import FloatArray as FloatArray
    from clip_fewshot.types import IndexArray as IndexArray
    from clip_fewshot.types import LabelArray as LabelArray

__version__ = "0.1.0"

_HOME = {
    "ARCHITECTURES": "backbones.architectures",
    "CLIPConfig": "backbones.architectures",
    "Backbone": "backbones.backbone",
    "build_backbone": "backbones.backbone",
    "load_backbone": "backbones.clip",
    "Parts": "backbones.encoder_tower",
    "Pool": "backbones.encoder_tower",
    "ImageEncoder": "backbones.encoders",
    "TextEncoder": "backbones.encoders",
    "save_backbone": "backbones.folder",
    "PairBackbone": "backbones.pair",
    "JsonTokenizer": "backbones.pretrained_text",
    "load_text_encoder": "backbones.pretrained_text",
    "tokenize": "backbones.tokenizer",
    "CutState": "backbones.tower",
    "Placed": "backbones.tower",
    "Suffix": "backbones.tower",
    "Tower": "backbones.tower",
    "FewShotConfig": "config",
    "option": "config",
    "without_password": "config",
    "Calibrated": "conformal.calibration",
    "benjamini_hochberg": "conformal.false_discoveries",
    "storey": "conformal.false_discoveries",
    "StreamRanks": "conformal.stream",
    "Watch": "conformal.stream",
    "first_alarms": "conformal.stream",
    "SelfDistillation": "contrastive.distillation",
    "embed_on_spark": "contrastive.distributed.spark",
    "on_spark": "contrastive.distributed.spark",
    "join_world": "contrastive.distributed.torchrun",
    "Alone": "contrastive.distributed.world",
    "World": "contrastive.distributed.world",
    "FineTuning": "contrastive.finetuning",
    "count_parameters": "contrastive.finetuning",
    "merged": "contrastive.finetuning",
    "tunable": "contrastive.finetuning",
    "Objective": "contrastive.gradients",
    "PairModel": "contrastive.gradients",
    "contrastive_gradients": "contrastive.gradients",
    "identity_objective": "contrastive.objectives",
    "symmetric_objective": "contrastive.objectives",
    "ContrastiveOptions": "contrastive.options",
    "paper_options": "contrastive.options",
    "EpochReport": "contrastive.paired",
    "PairedOptions": "contrastive.paired",
    "train_paired": "contrastive.paired",
    "replayed_blocks": "contrastive.replayed",
    "replayed_pictures": "contrastive.replayed",
    "StepReport": "contrastive.trainer",
    "train_contrastive": "contrastive.trainer",
    "load_tuned": "contrastive.tuned_files",
    "save_tuned": "contrastive.tuned_files",
    "Validation": "contrastive.validation",
    "raw_pixels": "data.builtin",
    "TEMPLATES": "data.captions",
    "CaptionGenerator": "data.captions",
    "join": "data.collect",
    "picture_paths": "data.collect",
    "read_images": "data.collect",
    "ImageDataset": "data.dataset",
    "shown": "data.names",
    "PairBatch": "data.pairs.batch",
    "PairSource": "data.pairs.batch",
    "caption_ids": "data.pairs.batch",
    "CaptionedStream": "data.pairs.captioned",
    "LoaderSource": "data.pairs.loader",
    "split_pairs": "data.pairs.split",
    "PairStream": "data.pairs.stream",
    "pixel_batches": "data.pixels",
    "read_dataset": "data.read",
    "OpenWorldSplit": "data.sampling",
    "draw_support": "data.sampling",
    "split_open_world": "data.sampling",
    "DISCOVERERS": "discovery",
    "Discovery": "discovery",
    "discover_classes": "discovery",
    "semi_supervised_kmeans": "discovery",
    "ward_tree": "discovery.ward_tree",
    "ArtifactError": "errors",
    "ClipFewShotError": "errors",
    "DataError": "errors",
    "DivergedError": "errors",
    "ResourceError": "errors",
    "UsageError": "errors",
    "interval": "evaluation.intervals",
    "paired_difference": "evaluation.intervals",
    "statistic_difference": "evaluation.intervals",
    "statistic_interval": "evaluation.intervals",
    "ari": "evaluation.metrics",
    "aupr": "evaluation.metrics",
    "auroc": "evaluation.metrics",
    "clustering_accuracy": "evaluation.metrics",
    "det_curve": "evaluation.metrics",
    "eer": "evaluation.metrics",
    "fpr95": "evaluation.metrics",
    "gcd_accuracy": "evaluation.metrics",
    "gcd_hits": "evaluation.metrics",
    "macro_f1": "evaluation.metrics",
    "nmi": "evaluation.metrics",
    "per_class_table": "evaluation.metrics",
    "rates_at": "evaluation.metrics",
    "weighted_f1": "evaluation.metrics",
    "encode_images": "features.encode",
    "encode_texts": "features.encode",
    "image_prefix": "features.encode",
    "Prefix": "features.prefix",
    "replay": "features.prefix",
    "run_prefix": "features.prefix",
    "embed_files": "features.table",
    "not_embedded": "features.table",
    "read_features": "features.table",
    "write_features": "features.table",
    "APPROACHES": "few_shot.approach",
    "Approach": "few_shot.approach",
    "Point": "few_shot.approach",
    "Range": "few_shot.approach",
    "class_texts": "features.texts",
    "FewShotClassifier": "few_shot.classifier",
    "Workbench": "few_shot.cross_validation",
    "Evaluate": "few_shot.search.generation",
    "SearchSpace": "few_shot.search.space",
    "StudyPlan": "few_shot.search.study",
    "run_study": "few_shot.search.study",
    "TrialRecord": "few_shot.select",
    "SupportData": "few_shot.trainer",
    "TrainSettings": "few_shot.trainer",
    "balanced_batches": "few_shot.trainer",
    "tune": "few_shot.trainer",
    "margin_logits": "geometry",
    "LinearHead": "heads.linear",
    "ZeroShotHead": "heads.zero_shot",
    "zero_shot_weights": "heads.zero_shot",
    "cross_entropy": "losses.cross_entropy",
    "sinkhorn": "losses.distillation",
    "transport_targets": "losses.distillation",
    "matched_cross_entropy": "losses.matched",
    "matched_floor": "losses.matched",
    "CLASSFUL": "novelty",
    "DETECTORS": "novelty",
    "TEXTUAL": "novelty",
    "EnergyDetector": "novelty",
    "KNNDetector": "novelty",
    "LOFDetector": "novelty",
    "MahalanobisDetector": "novelty",
    "MaxLogitDetector": "novelty",
    "MaxSoftmaxDetector": "novelty",
    "MCMDetector": "novelty",
    "NegativeLabelsDetector": "novelty",
    "RankAverageDetector": "novelty",
    "RelativeMahalanobisDetector": "novelty",
    "build_detector": "novelty",
    "mine_negatives": "novelty",
    "Extension": "open_world.add_class",
    "Naming": "open_world.add_class",
    "Answer": "open_world.answers",
    "Sight": "open_world.sight",
    "OpenWorldClassifier": "open_world.classifier",
    "DEPTHS": "open_world.feature_spaces",
    "Group": "open_world.groups",
    "Known": "open_world.name_suggestions",
    "Suggestions": "open_world.name_suggestions",
    "suggest_names": "open_world.name_suggestions",
    "nouns": "open_world.nouns",
    "Rejector": "open_world.rejector",
    "fit_rejector": "open_world.rejector",
    "NoveltyChoice": "open_world.select_detector",
    "choose_novelty": "open_world.select_detector",
    "Applied": "open_world.store.decisions",
    "Ingested": "open_world.store.ingesting",
    "Status": "open_world.store.queries",
    "Review": "open_world.store.review",
    "Store": "open_world.store.store",
    "Watched": "open_world.store.watching",
    "watch": "open_world.store.watching",
    "AdamW": "optim.adamw",
    "parameter_groups": "optim.adamw",
    "warmup_cosine": "optim.adamw",
    "Progress": "pipeline",
    "output_folder": "pipeline",
    "resumed": "pipeline",
    "run_few_shot": "pipeline",
    "density_panels": "plots",
    "det_curves": "plots",
    "embedding_plot": "plots",
    "modality_gap": "plots",
    "shots_panels": "plots",
    "spread": "plots",
    "display_name": "plots.methods",
    "ordered": "plots.methods",
    "EmbeddingView": "plots.views",
    "ShotPoint": "plots.views",
    "CacheProbe": "probes.cache",
    "LinearProbe": "probes.logistic",
    "PrototypeProbe": "probes.prototype",
    "Prepared": "protocol.refits",
    "Task": "protocol.refits",
    "prepare": "protocol.refits",
    "GridCell": "report.grid",
    "picture_grid": "report.grid",
    "headline_table": "report.headline",
    "ReviewView": "report.review",
    "render_review": "report.review",
    "review_view": "report.review",
    "suggestions_for": "report.review",
    "artifact_kind": "runtime.artifacts",
    "resolve_device": "runtime.device",
    "describe_environment": "runtime.environment",
    "cache_root": "runtime.files",
    "read_json": "runtime.files",
    "write_bytes": "runtime.files",
    "write_json": "runtime.files",
    "write_text": "runtime.files",
    "generator": "runtime.rng",
    "torch_seeded": "runtime.rng",
    "describe_last_layers": "tuning.last_layers",
    "last_layers": "tuning.last_layers",
    "describe_prompts": "tuning.prompts",
    "load_prompts": "tuning.prompts",
    "prompted": "tuning.prompts",
    "save_prompts": "tuning.prompts",
    "BoolArray": "types",
    "EvalResult": "types",
    "FeatureSet": "types",
    "FloatArray": "types",
    "IndexArray": "types",
    "LabelArray": "types",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clip_fewshot' has no attribute {name!r}")
    return getattr(import_module(f"clip_fewshot.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

"""Figures of the report and of notebooks: plain arrays in, a drawing and its description out."""

from clip_fewshot.plots.confusion import confusion_plot as confusion_plot
from clip_fewshot.plots.dendrogram import dendrogram_plot as dendrogram_plot
from clip_fewshot.plots.dendrogram import find_cut_height as find_cut_height
from clip_fewshot.plots.densities import density_panels as density_panels
from clip_fewshot.plots.densities import density_plot as density_plot
from clip_fewshot.plots.det import det_curves as det_curves
from clip_fewshot.plots.det import det_plot as det_plot
from clip_fewshot.plots.embedding import embedding_plot as embedding_plot
from clip_fewshot.plots.embedding import measure_modality_gap as measure_modality_gap
from clip_fewshot.plots.embedding import measure_spread as measure_spread
from clip_fewshot.plots.history import history_plot as history_plot
from clip_fewshot.plots.reliability import reliability_plot as reliability_plot
from clip_fewshot.plots.shots import shots_panels as shots_panels
from clip_fewshot.plots.shots import shots_plot as shots_plot
from clip_fewshot.plots.style import Plot as Plot

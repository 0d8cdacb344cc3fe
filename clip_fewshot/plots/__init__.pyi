"""Figures of the report, one file each."""

from .confusion import confusion_plot as confusion_plot
from .dendrogram import dendrogram_plot as dendrogram_plot
from .dendrogram import find_cut_height as find_cut_height
from .densities import density_panels as density_panels
from .densities import density_plot as density_plot
from .det import det_curves as det_curves
from .det import det_plot as det_plot
from .embedding import embedding_plot as embedding_plot
from .embedding import measure_modality_gap as measure_modality_gap
from .embedding import measure_spread as measure_spread
from .history import history_plot as history_plot
from .reliability import reliability_plot as reliability_plot
from .shots import shots_panels as shots_panels
from .shots import shots_plot as shots_plot
from .style import Plot as Plot

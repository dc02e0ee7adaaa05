"""Training recipes shared by presets: what the `train.py` beside the weights calls."""

from zoo.recipes.cloud_networks import cloud_network_preset as cloud_network_preset
from zoo.recipes.clouds import cloud_preset as cloud_preset
from zoo.recipes.flows import cohort_preset as cohort_preset
from zoo.recipes.flows import flow_preset as flow_preset
from zoo.recipes.registrations import brain_slices_datasets as brain_slices_datasets
from zoo.recipes.registrations import hippocampus_datasets as hippocampus_datasets
from zoo.recipes.registrations import measure_all as measure_all
from zoo.recipes.registrations import registration_preset as registration_preset
from zoo.recipes.shape_spaces import space_preset as space_preset
from zoo.recipes.skeleton import Job as Job
from zoo.recipes.skeleton import make_preset as make_preset
from zoo.recipes.surfaces import surface_preset as surface_preset

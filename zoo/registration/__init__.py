"""What registrations share: one check of a pair, stages of a training, measures, compositions."""

from zoo.registration.base import Registration as Registration
from zoo.registration.measure import Measured as Measured
from zoo.registration.measure import measure as measure
from zoo.registration.measure import warped_labels as warped_labels
from zoo.registration.quality import Quality as Quality

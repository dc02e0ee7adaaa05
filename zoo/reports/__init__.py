"""Reports that a training writes: what the network does, in numbers, pictures and TensorBoard."""

from zoo.reports.base import Report as Report
from zoo.reports.variational import VariationalReport as VariationalReport

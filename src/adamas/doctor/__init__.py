"""What is installed, which kernels serve each framework and why others cannot: the facts behind `adamas doctor`.

from adamas.doctor import diagnose

print(diagnose())

diagnosis   all facts together
machine     processor, cores, quotas
packages    versions, and packages that do not go together, with the remedy
probe       one framework, tried in a process of its own: what crashes there is a line of the report
report      the facts as text
"""

from adamas.doctor.diagnosis import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]

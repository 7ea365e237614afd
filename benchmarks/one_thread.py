"""One thread and the command line's process settings, here and in child processes.

Imported first: numpy, torch and jax read them when they are loaded.
"""

import os

from smesolve.process_settings import apply_process_settings

os.environ.update(
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
)
apply_process_settings()

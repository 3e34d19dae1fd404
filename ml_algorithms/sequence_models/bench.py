"""The study of next-item models: what ``make bench`` runs.

The size ``ml1m`` is the published rows' data set; it needs the archive of GroupLens within reach
and hours on two cores, and writes to artifacts/.
"""

from __future__ import annotations

from pathlib import Path

from ml_algorithms.sequence_models.bench_config import Config
from ml_algorithms.sequence_models.bench_cost import attention_cost
from ml_algorithms.sequence_models.bench_leaderboard import leaderboard
from ml_algorithms.sequence_models.bench_losses import losses
from ml_algorithms.sequence_models.bench_ties import ties
from ml_algorithms.sequence_models.bench_time import global_time
from ml_algorithms.sequence_models.training import TrainSettings
from ml_platform.evaluation.study import Part, Study

SIZES = {
    "default": Config(),
    "ml1m": Config(
        datasets=("movielens-1m",),
        length=200,
        n_layers=2,
        train=TrainSettings(max_epochs=100, patience=10, batch_size=128, learning_rate=1e-3),
        loss_epochs=40,
        negatives=(1, 16, 256, 1024),
        ease_regs=(300.0, 1000.0, 3000.0),
    ),
    "smoke": Config(
        datasets=("synthetic",),
        synthetic_users=40,
        length=8,
        width=8,
        n_layers=1,
        train=TrainSettings(max_epochs=1, batch_size=32),
        seeds=(0,),
        loss_epochs=1,
        negatives=(1, 16),
        calibrations=(0.0, 1.0),
        smoothings=(30.0,),
        ease_regs=(30.0,),
        half_lives=(4.0,),
        ials_factors=(4,),
        ials_weights=(0.1,),
        hash_seeds=(0, 1),
        cost_lengths=(8, 16),
        cost_repeats=2,
    ),
}

STUDY = Study(
    name="sequence_models",
    folder=Path(__file__).resolve().parent,
    sizes=SIZES,
    parts=[
        Part("leaderboard", "who ranks the next item best?", leaderboard),
        Part("losses", "what do negatives buy, who is overconfident?", losses),
        Part("ties", "how far does the order of tied seconds move the metrics?", ties),
        Part("global_time", "does the order of models survive a split by time?", global_time),
        Part("attention_cost", "what does a request cost as the history grows?", attention_cost),
    ],
)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())

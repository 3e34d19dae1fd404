"""ALS on Spark, as a job: parquet in, factors as parquet out. The same file runs on a cluster.

    spark-submit --master yarn --num-executors 50 als_job.py \
        --input hdfs:///events/2026-11 --output hdfs:///factors/2026-11 \
        --implicit --alpha 10 --rank 128 --reg 0.05 --blocks 200 --checkpoint hdfs:///tmp/als

In: a parquet folder with columns user (int), item (int) and rating (float; for implicit feedback
a count or weight above 0), one row a pair: Spark does not sum duplicates, it adds their terms.
Out: for every number N given to ``--iterations`` the folders ``<output>/iterations=N/user_factors``
and ``.../item_factors`` with columns id (int) and features (array of D floats), and a printed line
``als_job {...}`` of JSON: what was fitted and how long it took. Several numbers cost one reading of
the input; comparing their lists says when to stop.

What Spark minimises is written out in als.py beside our own; lambda is multiplied with the
number of a row's ratings. Each half-step sends every user's block the item factors it needs, and
no others: the "blocks" of Spark's implementation are what bounds that traffic. Plain pyspark, no
import from this repository, so that the file alone can be submitted.

Give ``--checkpoint`` for more than a handful of iterations. Each is defined by the one before, and
without a checkpoint a task carries that whole chain with it: Java's serializer then runs out of
stack, at an iteration count that looks harmless.
"""

import argparse
import json
import time

from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import DataFrame, SparkSession


def arguments() -> argparse.Namespace:
    """The command line; every knob that changes the result is on it."""
    parser = argparse.ArgumentParser(description="Fits ALS and writes the factors.")
    parser.add_argument("--input", required=True, help="parquet: user, item, rating")
    parser.add_argument("--output", required=True, help="folder for user_factors, item_factors")
    parser.add_argument("--implicit", action="store_true", help="clicks and counts, not ratings")
    parser.add_argument("--alpha", type=float, default=1.0, help="confidence a unit of rating")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--iterations", type=int, nargs="+", default=[15], metavar="N")
    parser.add_argument("--reg", type=float, default=0.1, help="times the row's number of ratings")
    parser.add_argument("--blocks", type=int, default=10, help="about one to three a core")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--checkpoint", help="folder that all executors reach: cuts the lineage every 10 iterations"
    )
    return parser.parse_args()


def fit(
    ratings: DataFrame, options: argparse.Namespace, iterations: int
) -> tuple[ALSModel, dict[str, float]]:
    """The fitted model, and what fitting it took."""
    als = ALS(
        rank=options.rank,
        maxIter=iterations,
        regParam=options.reg,
        implicitPrefs=options.implicit,
        alpha=options.alpha,
        numUserBlocks=options.blocks,
        numItemBlocks=options.blocks,
        seed=options.seed,
        checkpointInterval=10 if options.checkpoint else -1,
    )
    begin = time.perf_counter()
    model = als.fit(ratings)
    # Counting both sides makes sure that whatever is lazy is in the time.
    n_users, n_items = model.userFactors.count(), model.itemFactors.count()
    seconds = time.perf_counter() - begin
    return model, {
        "iterations": iterations, "users": n_users, "items": n_items, "fit_seconds": seconds,
    }  # fmt: skip


def main() -> None:
    """Read once; fit and write for each number of iterations."""
    options = arguments()
    spark = SparkSession.builder.appName("als").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    if options.checkpoint:
        spark.sparkContext.setCheckpointDir(options.checkpoint)
    ratings = spark.read.parquet(options.input).select("user", "item", "rating").cache()
    n_ratings = ratings.count()  # fills the cache, so that the clock of fit() measures ALS alone
    for iterations in options.iterations:
        model, done = fit(ratings, options, iterations)
        folder = f"{options.output}/iterations={iterations}"
        model.userFactors.write.mode("overwrite").parquet(f"{folder}/user_factors")
        model.itemFactors.write.mode("overwrite").parquet(f"{folder}/item_factors")
        print("als_job " + json.dumps({"ratings": n_ratings, **done}), flush=True)
    spark.stop()


if __name__ == "__main__":
    main()

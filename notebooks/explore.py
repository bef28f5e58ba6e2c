# Databricks notebook source
# MAGIC %md
# MAGIC # Look at a table of vectors
# MAGIC Any table that `embedall` has written: what it holds, what is near to what, a map.
# MAGIC Set the table's name or path below.

# COMMAND ----------

import os
from io import BytesIO

import matplotlib.pyplot as plt

from embedall_spark import files, session, tables
from embedall_spark.search import exact
from embedall_spark.visualize import scatter_map

TABLE = os.environ.get("EMBEDALL_TABLE", "demo-output/words")

spark = session.get("explore")
vectors = tables.read(spark, TABLE)
vectors.orderBy("count", ascending=False).show(10)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Who wrote it, and when

# COMMAND ----------

tables.history(spark, TABLE).select("version", "timestamp", "run_id").show(5, truncate=False)

# COMMAND ----------

# MAGIC %md
# MAGIC ## Neighbours of some frequent ids

# COMMAND ----------

frequent = vectors.orderBy("count", "id", ascending=[False, True]).limit(800).collect()
ids = [row["id"] for row in frequent[::100]]
for name, hits in zip(ids, exact.neighbours(vectors, ids, 5), strict=True):
    print(f"{name:>24}  {', '.join(near for near, _ in hits)}")

# COMMAND ----------

# MAGIC %md
# MAGIC ## Norms beside frequencies
# MAGIC A word's norm grows with how specific its contexts are; of things without counts there is nothing to see here.

# COMMAND ----------

some = vectors.where("count > 0").orderBy("count", "id", ascending=[False, True]).limit(2_000).toPandas()
figure, axes = plt.subplots(figsize=(7, 5))
axes.scatter(some["count"], some["norm"], s=4)
axes.set(xscale="log", xlabel="count", ylabel="norm", title=f"{len(some):,} most frequent ids")
plt.show()

# COMMAND ----------

# MAGIC %md
# MAGIC ## A map
# MAGIC Titles and labels are shown where the run has left a table of them beside its own.

# COMMAND ----------

beside = files.metadata_of(TABLE)
known = tables.read(spark, beside).select("id", "label", "title") if tables.exists(spark, beside) else None
picture = plt.imread(BytesIO(scatter_map.draw(vectors, 300, known=known)))
plt.figure(figsize=(14, 14 * picture.shape[0] / picture.shape[1]), layout="constrained")
plt.imshow(picture)
plt.axis("off")
plt.show()

"""What measuring costs: every measure but insertion and deletion, as a ratio to `explain` alone.

  python benchmarks/evaluation.py --data_dir=<folder with VOCdevkit>

Both read the same pictures from their files, 160 pixels, EfficientNet-Lite0; repetitions take turns. `explain` is
asked for one class and its rival of every picture; evaluation explains every class that a picture has. The last line is
JSON.
"""

import json
import statistics
import time

import keras
from absl import app, flags

import sfocus_tf as sf
from sfocus_tf import backbones, evaluation

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data are.", required=True)
_DATASET = flags.DEFINE_string("dataset", "voc2012", "Data set with boxes.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 3, "Times each is run.")


def main(_):
    data = sf.data.load(_DATASET.value, "test", data_dir=_DATA_DIR.value, image_size=160, batch_size=32, regions=True)
    classifier = backbones.create("efficientnet_lite0", len(data.class_names), 160)
    model = sf.SharpenFocus(classifier, multi_label=data.multi_label)

    def explain():
        for batch in data.batches:
            explained = model.explain_labelled_on_batch(batch["image"], batch["label"])
            keras.tree.map_structure(lambda value: value.numpy(), explained)

    seconds = {"explain": [], "evaluate": []}
    work = {"explain": explain, "evaluate": lambda: evaluation.evaluate(model, data)}
    for repetition in range(_REPETITIONS.value + 1):  # the first compiles
        for name, run in work.items():
            begin = time.perf_counter()
            run()
            if repetition:
                seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {"pictures": data.source.size, "evaluate": round(medians["evaluate"] / medians["explain"], 3)}
    print(json.dumps(result | {f"{name}_seconds": round(value, 2) for name, value in medians.items()}))


if __name__ == "__main__":
    app.run(main)

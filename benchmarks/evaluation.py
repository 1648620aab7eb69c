"""Cost of evaluation: all metrics except insertion and deletion, relative to `explain` alone.

  python benchmarks/evaluation.py --data_dir=<folder with VOCdevkit>

Both read the same image files, at 160 pixels, with EfficientNet-Lite0, and take turns. `explain` explains one class and
its rival per image; evaluation explains every class of an image. The last line is JSON.
"""

import json
import statistics
import time

import keras
from absl import app, flags

import sfocus_tf as sf
from sfocus_tf import backbones, evaluation

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the data.", required=True)
_DATASET = flags.DEFINE_string("dataset", "voc2012", "A data set with boxes.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 3, "Number of timed runs of each.")


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
    result = {"images": data.source.size, "evaluate": round(medians["evaluate"] / medians["explain"], 3)}
    print(json.dumps(result | {f"{name}_seconds": round(value, 2) for name, value in medians.items()}))


if __name__ == "__main__":
    app.run(main)

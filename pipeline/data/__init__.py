"""DATASET -> batches. The way of a sample:

corpus.py      which datasets a run reads, as one, or each in its share (places.py)
order.py       consumed count -> epoch, sample id; mixture.py, of several (permutation.py, keyed.py: the mathematics)
feed.py        a rank's slots of each micro-batch, and the other way round
window.py      what a worker needs soon, in memory: asked for ahead, in large ranges (spans.py)
storage.py     where shards lie: files, buckets (../dataset/remote/), or a node's cache (cache.py, fetch.py;
               cache_voice.py: what it says); recent.py keeps some of it open
read.py        sample id -> bytes, checked: a sample or a hole (sample.py)
augment.py     sample id -> crop box (boxes.py), flip; randaugment.py or big_vision.py (operations.py), jitter.py,
               erasing.py
mix.py         Mixup and CutMix drawn; mixing.py does them on the device
decode.py      bytes, box -> pixels
maker.py       one worker's rows of a micro-batch, and what it says of them (part.py)
worker.py      its process, which nursery.py gives birth to; ring.py is the memory it writes to
loader.py      the rank's side: micro-batches (batch.py) in order, on its device; recipe.py says what is made
mosaic/        in place of order and loader: mosaicml-streaming's
ledger.py      what was really read, added up and proved against the manifest
lookup.py      the order, asked from outside; stretches.py: of a run whose batch size changed on the way
forecast.py    what reading will take, for `plan`
"""

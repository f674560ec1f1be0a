"""Deploy: a trained network made ready to recognise alone, in small numbers, and left in a folder that needs nothing else of a run.

    fold        weights and normalisations to a list of products, each with a gain and a bias (`folding`)
    calibrate   what goes into each product, seen on a slice of speech (`calibrate`)
    quantize    a scale for each layer's weights, inputs and recurrent state, and their codes (`codes`, `quantized`)
    run         the forward pass, whole (`network`) or in pieces of many streams together (`streams`)
    keep        the folder: weights, model.json, a StableHLO program (`storage`, `folder`, `program`)

Conventions. A product is codes x codes -> int32 (int8, int4), or numbers x numbers -> float32; then one float32 multiplication by the
scales and the normalisation's gain, then the bias. Everything between products (gates, state, rectifier) is float32 arithmetic that has
the same bits wherever division is IEEE 754's (`arithmetic.exact`), so an int8 or int4 network without layer normalisation is one
function: same features, same logits, on any such machine, in any batch, whole or in pieces, by integer products or by their float32 twins.
CPUs divide so; XLA's programs for NVIDIA GPUs do not (`div.full`, off by up to 2 ulp), so theirs are close and no more.

Not here: training in these formats (`arithmetic.storage`), search and scoring (`evaluation`), the service (`serving`).
"""

"""Serving: many people speak at the same time, and one network answers them all.

    session     one stream: samples to features to chunks; logits to text (no threads)
    dispatch    batch dispatch: one thread steps the network for all streams that have a chunk waiting
    stream      a stream as its own side has it
    engine      a dispatcher of an exported model
    figures     what a dispatcher counts: latencies, batches, steps
    load        simulated clients that speak at the speed of sound, for `dsrun bench serve`
    errors      what a stream can be told

    service     the HTTP and WebSocket application, with `connection` (a client's stream, in the words of `protocol`), `uploads` (files)
                and page.html; `access` says which hosts and pages it answers, `limits` what a client may take
    server      that on a socket: silent, deaf and flooding clients, and the end

A room of its own on the third floor, beside `study`: it stands on `deploy` (the network's streams) as well as on `ctc` and `speech`
(features, labels, text), which no room of the second floor may, and it is the only one with threads that live as long as a service.
`study` measures and draws what is on disk and knows nothing of it; the benchmark that needs both is on the roof.

Source: batch dispatch is Amodei et al. 2015, Deep Speech 2, on deployment: requests are put together into batches as they arrive, because
the weights are then read once for all of them. Theirs, too, is the eager choice: a batch is made as soon as the device is free and
somebody waits, and nobody waits for a batch to fill.
"""

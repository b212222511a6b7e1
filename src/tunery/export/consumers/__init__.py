"""Programs that load an export as their users would, each in a process that knows nothing of tunery.

``_run.py`` is that process; a consumer is a file beside it with ``load(job)``, which gives an object with

- ``tokens(ask)``: the token ids that its tokenizer makes of a question,
- ``logits(row)``: numpy array [positions, classes] of a row of token ids,
- ``answers(prompts, most, stops)``: greedy token ids, for models that write text,
- ``versions``: the programs at work, by name.
"""
